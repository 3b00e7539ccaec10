//! Matching, counting and drawing.

use super::*;

#[test]
fn globs() {
    for (pattern, text) in [("*", ""), ("a*", "a/b"), ("*.bin", "x/y.bin"), ("a?c", "abc"), ("*b*", "abc"), ("", "")] {
        assert!(glob(pattern, text), "{pattern} {text}");
    }
    for (pattern, text) in [("a", "ab"), ("a?", "a"), ("*.bin", "x.bin.tmp"), ("b*", "abc"), ("", "a")] {
        assert!(!glob(pattern, text), "{pattern} {text}");
    }
}

fn status(code: u16) -> FaultAction {
    FaultAction::Status { code }
}

#[test]
fn rules_are_taken_in_order_and_count() {
    let plan = FaultPlan::default();
    let first = plan.add(FaultRule::new(status(503)).op(FaultOp::Get).key("a/*").after(1).times(2));
    let second = plan.add(FaultRule::new(FaultAction::Hang).method("head"));
    let get = |key| plan.pick("GET", Operation::GetObject, key);
    assert_eq!(get("b"), None);
    assert_eq!(get("a/1"), None, "skipped");
    assert_eq!(get("a/1"), Some(status(503)));
    assert_eq!(get("a/2"), Some(status(503)));
    assert_eq!(get("a/3"), None, "used up");
    assert_eq!(plan.pick("HEAD", Operation::HeadObject, "a/1"), Some(FaultAction::Hang));
    assert_eq!((first.hits(), second.hits()), (2, 1));
    second.remove();
    assert_eq!(plan.pick("HEAD", Operation::HeadObject, "a/1"), None);
}

#[test]
fn draws_repeat_with_their_seed() {
    let run = |seed| {
        let plan = FaultPlan::default();
        plan.add(FaultRule::new(status(500)).chance(0.3, seed));
        (0..1000).map(|_| plan.pick("GET", Operation::GetObject, "k").is_some()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let hits = run(1).into_iter().filter(|hit| *hit).count();
    assert!((200..400).contains(&hits), "{hits}");
}

#[test]
fn rules_come_as_json() {
    let text = r#"{"op":"get","key":"a*","count":3,"action":{"reset":{"afterBytes":10}}}"#;
    let rule: FaultRule = serde_json::from_str(text).unwrap();
    assert_eq!(rule, FaultRule::new(FaultAction::Reset { after_bytes: 10 }).op(FaultOp::Get).key("a*").times(3));
    assert!(serde_json::from_str::<FaultRule>(r#"{"action":"hang","often":1}"#).is_err());
    assert_eq!(serde_json::from_str::<FaultRule>(r#"{"action":"hang"}"#).unwrap().action, FaultAction::Hang);
}
