//! A Service without selector, as kube-proxy makes it work: who connects reaches the endpoint that its EndpointSlice names
//! at that moment.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use super::control_plane::Kubectl;

/// Listens on this machine for a Service of the default namespace, as long as the process runs.
///
/// # Panics
/// When there is no free port.
#[must_use]
pub fn serve_service(kubectl: &Kubectl, name: &str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let at = listener.local_addr().expect("bound");
    let (kubectl, name) = (kubectl.clone(), name.to_owned());
    std::thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let (kubectl, name) = (kubectl.clone(), name.clone());
            // Who breaks off has his reasons; who finds nobody is hung up on.
            std::thread::spawn(move || drop(pass(&kubectl, &name, &caller)));
        }
    });
    at
}

fn pass(kubectl: &Kubectl, name: &str, caller: &TcpStream) -> io::Result<()> {
    let slice = kubectl.get("endpointslice", name).unwrap_or_default();
    let host = slice["endpoints"][0]["addresses"][0].as_str().unwrap_or_default();
    let port = slice["ports"][0]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    let server = TcpStream::connect((host, port))?;
    let (mut from, mut to) = (caller.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        // Who hangs up ends the other side too.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let copied = io::copy(&mut &server, &mut &*caller);
    caller.shutdown(Shutdown::Both)?;
    copied.map(drop)
}
