//! The CSI plugin's socket: each request by itself, one after the other. The kubelet asks again what got no answer.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use larder_mounter::mounts::{is_ours, mounted_at};
use larder_mounter::{PluginRequest, Reply, receive, send};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::listener;
use super::offers::{Offered, Offers};
use super::targets::{Refusal, Target};

/// The plugin's container has no capabilities, but it is root's: the kubelet's folders are.
const PLUGIN_USER: u32 = 0;

/// A caller that says nothing for this long is in the way of the next.
const SILENCE_SECONDS: i64 = 10;

/// Serves for ever, from `socket`.
pub fn serve(socket: &Path, kubelet: &Path, offers: &Offers) -> io::Result<()> {
    let listener = listener::open(socket, PLUGIN_USER)?;
    loop {
        let caller = listener::accept(&listener);
        if let Err(error) = converse(&caller, kubelet, offers) {
            eprintln!("larder-mounter: the CSI plugin's connection: {error}");
        }
    }
}

fn converse(caller: &OwnedFd, kubelet: &Path, offers: &Offers) -> io::Result<()> {
    setsockopt(caller, sockopt::ReceiveTimeout, &TimeVal::seconds(SILENCE_SECONDS))?;
    while let Some((bytes, _unasked)) = receive(caller)? {
        let reply = match PluginRequest::decode(&bytes) {
            Ok(request) => answer(request, kubelet, offers),
            Err(malformed) => Reply::Refused { errno: 0, why: malformed.to_string() },
        };
        send(caller, &reply.encode(), None)?;
    }
    Ok(())
}

fn answer(request: PluginRequest, kubelet: &Path, offers: &Offers) -> Reply {
    let done = match &request {
        PluginRequest::Publish { volume, target, is_read_only } => {
            Target::parse(kubelet, target).and_then(|target| publish(volume, &target, *is_read_only, offers))
        }
        PluginRequest::Unpublish { target } => Target::parse(kubelet, target).and_then(|target| target.unpublish()),
    };
    match done {
        Ok(()) => Reply::Done,
        Err(refusal) => {
            eprintln!("larder-mounter: {request:?}: {refusal}");
            Reply::Refused { errno: refusal.errno(), why: refusal.to_string() }
        }
    }
}

fn publish(volume: &str, target: &Target, is_read_only: bool, offers: &Offers) -> Result<(), Refusal> {
    let not_served = || Refusal::NotServed { volume: volume.to_owned() };
    let at = match offers.find(volume) {
        Offered::At(at) => at,
        Offered::Nowhere => return Err(not_served()),
        Offered::Twice => return Err(Refusal::Contradicted { volume: volume.to_owned() }),
    };
    let found = mounted_at(&at).map_err(|error| Refusal::System { path: at, error })?;
    target.publish(&found.filter(is_ours).ok_or_else(not_served)?, is_read_only)
}
