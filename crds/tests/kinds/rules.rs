//! Every CEL rule, with a document that passes and one that fails with the message the user reads.
//!
//! A case changes a good document twice. The last test compares the rules that failed here with the rules of the schema, so that
//! no rule comes without a case.

use std::collections::BTreeSet;

use larder_crds::{Kind, Violation, check};
use serde_json::json;

use super::cases::{azure, base, cases, document};

#[test]
fn each_rule_holds_and_fails() {
    for case in cases() {
        let old = case.old.as_ref().map(|old| {
            check(case.kind, &document(case.kind, case.pointer, old), None).expect("the old document is good")
        });
        let good = check(case.kind, &document(case.kind, case.pointer, &case.good), old.as_ref());
        assert!(good.is_ok(), "{}: {:?}", case.good, good.unwrap_err());
        let bad = check(case.kind, &document(case.kind, case.pointer, &case.bad), old.as_ref());
        let (path, message) = case.violation;
        let expected = Violation { path: path.to_owned(), message: message.to_owned() };
        assert_eq!(bad.expect_err(message), [expected], "{}", case.bad);
        if old.is_some() {
            let created = check(case.kind, &document(case.kind, case.pointer, &case.bad), None);
            assert!(created.is_ok(), "a transition rule says nothing about creation: {:?}", created.unwrap_err());
        }
    }
}

#[test]
fn mutable_fields_of_an_origin_may_change() {
    let old = check(Kind::CacheVolume, &base(Kind::CacheVolume), None).expect("good");
    let mut new = base(Kind::CacheVolume);
    new["spec"]["origin"]["s3"]["region"] = json!("eu-west-1");
    new["spec"]["origin"]["s3"]["addressing"] = json!("Path");
    new["spec"]["origin"]["s3"]["credentials"]["secretRef"]["name"] = json!("others");
    assert!(check(Kind::CacheVolume, &new, Some(&old)).is_ok());

    let mut document = base(Kind::CacheVolume);
    document["spec"]["origin"] = azure();
    let old = check(Kind::CacheVolume, &document, None).expect("good");
    document["spec"]["origin"]["azure"]["credentials"]["secretRef"]["name"] = json!("others");
    assert!(check(Kind::CacheVolume, &document, Some(&old)).is_ok());
}

#[test]
fn every_rule_of_the_schema_has_a_case() {
    let mut in_schema = BTreeSet::new();
    for kind in Kind::ALL {
        super::walk(&super::schema(kind), "", &mut |path, schema| {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let message = rule["message"].as_str().expect("every rule has a message for people");
                in_schema.insert((kind, path.to_owned(), message.to_owned()));
            }
        });
    }
    let in_cases: BTreeSet<(Kind, String, String)> = cases()
        .into_iter()
        .map(|case| {
            let path = case.rule_path.unwrap_or(case.violation.0);
            (case.kind, path.replace("[0]", "[]").replace("[1]", "[]"), case.violation.1.to_owned())
        })
        .collect();
    assert_eq!(in_cases, in_schema);
}
