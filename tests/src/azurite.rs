//! Azurite, Microsoft's double of Azure Storage, as a process of the tests; what is in it is put there by Microsoft's own
//! client, so that nothing of ours judges itself.
//!
//! One for each test program, on a port of its own, in memory; it ends with the program. Tests keep apart by containers.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::run;

/// The first run installs a few hundred packages.
const INSTALL_WITHIN: Duration = Duration::from_secs(300);

/// Node.js starts in a second, on a busy machine in ten.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

const ACCOUNT: &str = "larder";

/// What Azurite prints when it listens.
const LISTENS: &str = "Azurite Blob service successfully listens on ";

/// A running Azurite with one account.
pub struct Azurite {
    endpoint: String,
    key: String,
    client: Mutex<Client>,
}

struct Client {
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Azurite {
    /// The program's own, started at the first call.
    ///
    /// # Panics
    /// If it can't be installed or doesn't start.
    pub fn shared() -> &'static Azurite {
        static SHARED: OnceLock<Azurite> = OnceLock::new();
        SHARED.get_or_init(Azurite::start)
    }

    fn start() -> Azurite {
        let dir = install();
        let key = BASE64_STANDARD.encode(uuid::Uuid::new_v4().as_bytes());
        let accounts = format!("{ACCOUNT}:{key}");
        let mut server = Command::new("node");
        server.arg(dir.join("node_modules/azurite/dist/src/blob/main.js"));
        server.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry"]);
        server.args(["--silent"]).env("AZURITE_ACCOUNTS", accounts).current_dir(std::env::temp_dir());
        let (_input, server) = spawn(server);
        let url = wait_line(&server, |line| line.strip_prefix(LISTENS).map(|url| url.trim().to_owned()));
        let endpoint = format!("{url}/{ACCOUNT}");

        let mut client = Command::new("node");
        client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("azurite/client.js")).arg(&dir);
        client.args([endpoint.as_str(), ACCOUNT, key.as_str()]);
        let (input, answers) = spawn(client);
        // Its output must have a reader as long as it runs.
        thread::spawn(move || server.into_iter().for_each(drop));
        Azurite { endpoint, key, client: Mutex::new(Client { input, answers }) }
    }

    /// The account's blob endpoint: `http://127.0.0.1:PORT/ACCOUNT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The account's name.
    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// The account's key, in base64.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Makes a container.
    pub fn create(&self, container: &str) {
        self.ask(json!({"operation": "create", "container": container}));
    }

    /// Puts a blob; returns its ETag.
    pub fn put(&self, container: &str, key: &str, data: &[u8]) -> String {
        let data = BASE64_STANDARD.encode(data);
        self.ask(json!({"operation": "put", "container": container, "key": key, "data": data}))
    }

    /// Puts a blob that says it is a directory, as WASB and blobfuse do.
    pub fn put_stub(&self, container: &str, key: &str) {
        let metadata = json!({"hdi_isfolder": "true"});
        self.ask(json!({"operation": "put", "container": container, "key": key, "data": "", "metadata": metadata}));
    }

    /// Puts the same bytes under each key.
    pub fn put_many(&self, container: &str, keys: &[String], data: &[u8]) {
        let data = BASE64_STANDARD.encode(data);
        self.ask(json!({"operation": "putMany", "container": container, "keys": keys, "data": data}));
    }

    /// Deletes a blob.
    pub fn delete(&self, container: &str, key: &str) {
        self.ask(json!({"operation": "delete", "container": container, "key": key}));
    }

    /// A shared access signature of a container (`rl` = read and list) that ends in so many seconds, or ended before.
    pub fn token(&self, container: &str, permissions: &str, seconds: i64) -> String {
        let request = json!({
            "operation": "token", "container": container, "permissions": permissions, "seconds": seconds,
        });
        self.ask(request)
    }

    fn ask(&self, request: Value) -> String {
        let mut client = self.client.lock();
        writeln!(client.input, "{request}").expect("the client reads");
        let answer = client.answers.recv_timeout(ANSWER_WITHIN).expect("the client answers");
        let answer: Value = serde_json::from_str(&answer).expect("a line of JSON");
        match answer["ok"].as_str() {
            Some(ok) => ok.to_owned(),
            None => panic!("Azure's client: {}", answer["error"]),
        }
    }
}

/// The folder that holds both, installed if it is missing.
fn install() -> PathBuf {
    // The target directory: the program is in target/PROFILE/deps.
    let program = std::env::current_exe().expect("a test program");
    let target = program.ancestors().nth(3).expect("below target/").to_owned();
    let dir = target.join("azurite");
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("azurite/install");
    run(Command::new(install).arg(&dir), INSTALL_WITHIN).ok();
    dir
}

/// Starts a program that ends with this one; what it prints, line by line.
fn spawn(mut command: Command) -> (ChildStdin, Receiver<String>) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches only the new process.
    unsafe {
        command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
    }
    let (started, child) = channel();
    let (lines, printed) = channel();
    // The signal comes when the *thread* that started the child ends, so that one stays as long as the child does.
    thread::spawn(move || {
        let mut child: Child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e} (make install)"));
        let output: Lines<BufReader<ChildStdout>> = BufReader::new(child.stdout.take().expect("piped")).lines();
        started.send(child.stdin.take().expect("piped")).expect("the one who asked waits");
        for line in output.map_while(Result::ok) {
            // Nobody may want to know any more.
            let _ = lines.send(line);
        }
        child.wait()
    });
    (child.recv_timeout(ANSWER_WITHIN).expect("the program starts"), printed)
}

fn wait_line<T>(lines: &Receiver<String>, wanted: impl Fn(&str) -> Option<T>) -> T {
    let mut said = Vec::new();
    loop {
        let line = lines.recv_timeout(ANSWER_WITHIN);
        let line = line.unwrap_or_else(|e| panic!("Azurite doesn't say that it listens ({e}): {said:?}"));
        if let Some(value) = wanted(&line) {
            return value;
        }
        said.push(line);
    }
}
