//! An API server in bad shape: requests pass through it to the real one, and some are answered 429 or 500, or not at all.
//!
//! Plain HTTP/1.1, one request a connection; `kubectl proxy` behind it speaks TLS, as the administrator. Elections go
//! undisturbed: who leads isn't what is tested with it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::control_plane::{ControlPlane, spawn_ending_with_us};
use super::wait_until;
use crate::harness::MINUTE;

/// Heads of requests are far below this.
const HEAD_MAX: usize = 64 * 1024;

/// An answer that never comes is given up by whoever waits.
const SILENCE: Duration = Duration::from_secs(30);

/// One that runs; it ends with this.
pub struct FaultyServer {
    at: SocketAddr,
    shared: Arc<Shared>,
    proxy: Child,
}

#[derive(Default)]
struct Shared {
    is_well: AtomicBool,
    drawn: AtomicU64,
    injected: AtomicU64,
}

impl FaultyServer {
    /// In front of `plane`'s; one of four requests fails until it is [well](Self::recover).
    ///
    /// # Panics
    /// When `kubectl proxy` doesn't come up.
    #[must_use]
    pub fn start(plane: &ControlPlane) -> Self {
        let [behind] = super::control_plane::free_ports();
        let mut command = Command::new(plane.bin().join("kubectl"));
        command.arg("--kubeconfig").arg(plane.kubectl().config());
        command.args(["proxy", &format!("--port={behind}")]).stdout(Stdio::null()).stderr(Stdio::null());
        let proxy = spawn_ending_with_us(&mut command);
        wait_until(MINUTE, "kubectl proxy listens", || TcpStream::connect(("127.0.0.1", behind)).is_ok());
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let (at, shared) = (listener.local_addr().expect("bound"), Arc::<Shared>::default());
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let shared = of_thread.clone();
                // Who breaks off has his reasons.
                std::thread::spawn(move || drop(shared.pass(caller, behind)));
            }
        });
        Self { at, shared, proxy }
    }

    /// Every request passes from now on.
    pub fn recover(&self) {
        self.shared.is_well.store(true, Ordering::Relaxed);
    }

    /// Requests that failed by this.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }

    /// Writes a kubeconfig for it.
    #[must_use]
    pub fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "faulty",
            "clusters": [{"name": "faulty", "cluster": {"server": format!("http://{}", self.at)}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "nobody"}}],
        });
        let path = folder.join("faulty.kubeconfig");
        std::fs::write(&path, config.to_string()).expect("written");
        path
    }
}

impl Drop for FaultyServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

impl Shared {
    fn pass(&self, mut caller: TcpStream, behind: u16) -> io::Result<()> {
        let mut read = Vec::new();
        let end = loop {
            let mut more = [0; 4096];
            let count = caller.read(&mut more)?;
            read.extend_from_slice(&more[..count]);
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if count == 0 || read.len() > HEAD_MAX {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).into_owned();
        if let Some(fault) = self.fault(&head) {
            return fault(&mut caller);
        }
        let mut server = TcpStream::connect(("127.0.0.1", behind))?;
        let lines = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let head: String = lines.map(|line| format!("{line}\r\n")).collect();
        server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        server.write_all(&read[end + 4..])?;
        let (mut from_caller, mut to_server) = (caller.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || {
            // Who hangs up ends the request behind too.
            let _ = io::copy(&mut from_caller, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        io::copy(&mut server, &mut caller)?;
        caller.shutdown(Shutdown::Both)
    }

    fn fault(&self, head: &str) -> Option<fn(&mut TcpStream) -> io::Result<()>> {
        if self.is_well.load(Ordering::Relaxed) || head.lines().next().is_none_or(|line| line.contains("/leases")) {
            return None;
        }
        // Knuth's numbers: an API server's bad days have no period either.
        let next = |x: u64| x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = self.drawn.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(next(x)));
        let drawn = next(drawn.unwrap_or_default()) >> 56;
        if drawn % 4 != 0 {
            return None;
        }
        self.injected.fetch_add(1, Ordering::Relaxed);
        // Clients try again by themselves what was answered 429, and nothing else.
        Some(match drawn / 4 % 16 {
            0..=12 => |caller| answer(caller, "429 Too Many Requests\r\nRetry-After: 1", 429, "TooManyRequests"),
            13 | 14 => |caller| answer(caller, "500 Internal Server Error", 500, "InternalError"),
            _ => |_| {
                std::thread::sleep(SILENCE);
                Ok(())
            },
        })
    }
}

fn answer(caller: &mut TcpStream, status: &str, code: u16, reason: &str) -> io::Result<()> {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the kit injects this", "reason": reason, "code": code,
    })
    .to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    caller.write_all((head + &body).as_bytes())?;
    caller.shutdown(Shutdown::Write)
}
