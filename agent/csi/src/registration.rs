//! The kubelet finds our socket in its folder, asks who is there, and says whether it took us.

use tokio::sync::mpsc;
use tonic::{Request, Response, Status, async_trait};

use crate::DRIVER;
use crate::proto::registration::registration_server::Registration;
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

/// The name of our socket in the kubelet's folder of registrations.
///
/// With an `@`, because the kubelet's client sends the socket's path as the request's authority, its slashes as `%2F`, and
/// h2 takes a `%` in an authority only before an `@`. To the driver's own socket the kubelet sends `localhost`.
pub const REGISTRATION: &str = "csi.larder.dev@reg.sock";

/// The kubelet's word for what we are.
const KIND: &str = "CSIPlugin";

/// CSI is compatible within 1.x; the kubelet compares nothing but this.
const VERSION: &str = "1.13.0";

/// What the kubelet said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pods may use the driver.
    Taken,
    /// They can't.
    Refused {
        /// Its words.
        why: String,
    },
}

/// The registration service.
#[derive(Debug)]
pub struct Registrar {
    endpoint: String,
    verdicts: mpsc::Sender<Verdict>,
}

impl Registrar {
    /// `endpoint` is the plugin's socket as the kubelet finds it. Verdicts beyond what `verdicts` holds are dropped: one is
    /// enough.
    pub fn new(endpoint: String, verdicts: mpsc::Sender<Verdict>) -> Self {
        Self { endpoint, verdicts }
    }
}

#[async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: KIND.into(),
            name: DRIVER.into(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec![VERSION.into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let said = request.into_inner();
        let verdict = match said.plugin_registered {
            true => Verdict::Taken,
            false => Verdict::Refused { why: said.error },
        };
        // A full queue holds one already.
        let _told = self.verdicts.try_send(verdict);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use http::uri::Authority;

    use super::*;

    #[test]
    fn what_the_kubelet_sends_as_the_authority_is_one() {
        let folder = "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2F";
        assert!(REGISTRATION.starts_with(DRIVER));
        format!("{folder}{REGISTRATION}").parse::<Authority>().expect("a user and a host");
        assert!(format!("{folder}csi.larder.dev-reg.sock").parse::<Authority>().is_err(), "and without an @ it isn't");
    }

    #[tokio::test]
    async fn the_kubelet_is_told_where_and_its_verdict_is_heard() {
        let (verdicts, mut heard) = mpsc::channel(1);
        let registrar = Registrar::new("/k/plugins/csi.larder.dev/csi.sock".into(), verdicts);
        let info = registrar.get_info(Request::new(InfoRequest {})).await.expect("answered").into_inner();
        assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.larder.dev"));
        assert_eq!(info.endpoint, "/k/plugins/csi.larder.dev/csi.sock");
        let refused = RegistrationStatus { plugin_registered: false, error: "no".into() };
        registrar.notify_registration_status(Request::new(refused)).await.expect("answered");
        assert_eq!(heard.recv().await, Some(Verdict::Refused { why: "no".into() }));
    }
}
