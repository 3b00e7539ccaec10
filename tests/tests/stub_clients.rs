//! Real clients, unchanged, against the origin double: boto3 and the AWS CLI. If one of them stops working, the double
//! has drifted from S3 (or S3 has moved).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use larder_tests::stub::{Operation, StubS3, pattern};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Installing the clients, or one command of theirs, takes seconds; a hang must not take the whole run with it.
const DEADLINE: Duration = Duration::from_secs(240);

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> Output {
    let text = format!("{command:?}");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect(&text);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (sender, output) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = output.recv_timeout(DEADLINE) else {
        kill(pid, Signal::SIGKILL).unwrap();
        panic!("{text} took longer than {DEADLINE:?}");
    };
    output.unwrap()
}

/// Runs a command that has to succeed; its standard output.
fn succeed(command: &mut Command) -> String {
    let text = format!("{command:?}");
    let output = run(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{out}\n{err}");
    out.into_owned()
}

/// The directory of the clients' environment, made if it is missing.
fn clients() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    let dir = target.join("s3-clients");
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/install");
    succeed(Command::new(install).arg(&dir));
    dir
}

#[test]
fn boto3_runs_unchanged() {
    let dir = clients();
    let stub = StubS3::builder().bucket("demo").start_blocking().unwrap();
    let tour = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/boto3_tour.py");
    let arguments = [stub.endpoint(), "demo".into(), stub.access_key().into(), stub.secret_key().into()];
    let out = succeed(Command::new(dir.join("bin/python")).arg(tour).args(arguments));
    assert_eq!(out.trim(), "ok");
    let counters = stub.counters();
    assert!(counters.denied >= 5, "{} refused", counters.denied);
    for operation in [Operation::UploadPart, Operation::CopyObject, Operation::DeleteObjects, Operation::ListObjects] {
        assert!(counters.of(operation) > 0, "{operation:?} was never asked");
    }
}

/// The AWS CLI with nothing of the machine's own settings.
struct Aws<'a> {
    stub: &'a StubS3,
    program: PathBuf,
    home: PathBuf,
}

impl Aws<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.home);
        command.env("AWS_ACCESS_KEY_ID", self.stub.access_key()).env("AWS_SECRET_ACCESS_KEY", self.stub.secret_key());
        command
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_MAX_ATTEMPTS", "1");
        command.args(arguments).args(["--endpoint-url", &self.stub.endpoint()]);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }
}

#[test]
fn the_aws_cli_runs_unchanged() {
    let dir = clients();
    let work = tempfile::tempdir().unwrap();
    let stub = StubS3::builder().bucket("demo").start_blocking().unwrap();
    let aws = Aws { stub: &stub, program: dir.join("bin/aws"), home: work.path().to_owned() };
    let path = |name: &str| work.path().join(name).to_str().unwrap().to_owned();

    // 20 MiB: above the CLI's threshold for multipart uploads and ranged downloads.
    let mut large = vec![0; 20 << 20];
    pattern::fill("large", 1, 0, &mut large);
    fs::write(path("large"), &large).unwrap();
    aws.run(&["s3", "cp", &path("large"), "s3://demo/large"]);
    assert!(stub.counters().of(Operation::UploadPart) >= 3);
    aws.run(&["s3", "cp", "s3://demo/large", &path("back")]);
    assert!(fs::read(path("back")).unwrap() == large, "20 MiB came back changed");
    aws.run(&["s3", "mv", "s3://demo/large", "s3://demo/moved"]);

    fs::create_dir_all(path("tree/sub dir")).unwrap();
    for (name, text) in [("a.txt", "a"), ("sub dir/é+%.txt", "e"), ("sub dir/empty", "")] {
        fs::write(Path::new(&path("tree")).join(name), text).unwrap();
    }
    aws.run(&["s3", "sync", &path("tree"), "s3://demo/tree"]);
    assert_eq!(aws.run(&["s3", "sync", &path("tree"), "s3://demo/tree"]), "", "the second sync has nothing to do");
    aws.run(&["s3", "sync", "s3://demo/tree", &path("copy")]);
    assert_eq!(fs::read_to_string(path("copy/sub dir/é+%.txt")).unwrap(), "e");
    let listed = aws.run(&["s3", "ls", "--recursive", "s3://demo"]);
    let names: Vec<&str> = listed.lines().map(|line| &line[31..]).collect();
    assert_eq!(names, ["moved", "tree/a.txt", "tree/sub dir/empty", "tree/sub dir/é+%.txt"]);

    let head = aws.run(&["s3api", "head-object", "--bucket", "demo", "--key", "moved"]);
    assert!(head.contains("\"ContentLength\": 20971520"), "{head}");
    let range = ["--range", "bytes=4096-4127", &path("part")];
    aws.run(&[&["s3api", "get-object", "--bucket", "demo", "--key", "moved"][..], &range].concat());
    assert!(fs::read(path("part")).unwrap() == large[4096..4128]);
    let put =
        ["s3api", "put-object", "--bucket", "demo", "--key", "moved", "--if-none-match", "*", "--body", &path("part")];
    let refused = run(&mut aws.command(&put));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("PreconditionFailed"), "{refused:?}");

    let missing = run(&mut aws.command(&["s3", "ls", "s3://no-such-bucket"]));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("NoSuchBucket"), "{missing:?}");
    let wrong = run(aws.command(&["s3", "ls", "s3://demo"]).env("AWS_SECRET_ACCESS_KEY", "wrong"));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("SignatureDoesNotMatch"), "{wrong:?}");
    aws.run(&["s3", "rm", "--recursive", "s3://demo/tree"]);
    assert_eq!(stub.keys(), [("moved".to_owned(), 20 << 20)]);
}
