//! Every CEL rule, as `kubectl apply` meets it.

use larder_crds::Kind;
use larder_tests::kit::Kubectl;
use serde_json::Value;

use super::cases::{cases, document};
use super::with_crds;

fn name(kind: Kind, document: &Value) -> (String, String) {
    (kind.plural().to_owned() + ".larder.dev", document["metadata"]["name"].as_str().expect("named").to_owned())
}

/// Applies `new` where `old` is; returns what the API server says of it.
fn applied(kubectl: &Kubectl, kind: Kind, old: Option<&Value>, new: &Value) -> Result<(), String> {
    // By one manager on the server's side, so that a field that isn't there any more is taken away.
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    if let Some(old) = old {
        kubectl.with_input(&apply, &old.to_string()).out();
    }
    let said = kubectl.with_input(&[&apply[..], &["--dry-run=server"]].concat(), &new.to_string());
    if let Some(old) = old {
        let (kind, name) = name(kind, old);
        kubectl.run(&["delete", &kind, &name, "--wait=true"]).out();
    }
    if said.ok { Ok(()) } else { Err(said.err) }
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn the_api_server_enforces_every_rule() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = with_crds(folder.path());
    let mut refused = 0;
    for case in cases() {
        let document = |value: &Value| document(case.kind, case.pointer, value);
        let old = case.old.as_ref().map(document);
        let good = applied(plane.kubectl(), case.kind, old.as_ref(), &document(&case.good));
        assert_eq!(good, Ok(()), "{} {}", case.pointer, case.good);
        let bad = applied(plane.kubectl(), case.kind, old.as_ref(), &document(&case.bad));
        let words = bad.expect_err(case.violation.1);
        assert!(words.contains(case.violation.1), "{}: {words}", case.violation.1);
        refused += 1;
    }
    assert!(refused > 50, "{refused} cases");
}
