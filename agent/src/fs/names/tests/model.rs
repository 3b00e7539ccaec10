//! Whatever is put, removed, looked up and listed: as of now, names are what the keys say; and later they are as of then.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(String),
    Remove(String),
    Look(String, String, bool),
    List(String, bool),
    Wait(u64),
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]", "[ab]/[ab-]", "[ab]/[ab]/[ab]", "[ab]//[ab]", "[ab]/", "[ab]/\\.\\."]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => path().prop_map(Step::Put),
        2 => path().prop_map(Step::Remove),
        4 => ("([ab](/[ab])?)?", "[ab-]", any::<bool>()).prop_map(|(dir, name, now)| Step::Look(dir, name, now)),
        2 => ("([ab](/[ab])?)?", any::<bool>()).prop_map(|(dir, now)| Step::List(dir, now)),
        1 => (1u64..90).prop_map(Step::Wait),
    ]
}

/// What the keys of one moment say.
type Keys = std::collections::BTreeSet<String>;

fn expected(keys: &Keys, at: &str, text: &str) -> &'static str {
    let path = if at.is_empty() { text.to_owned() } else { format!("{at}/{text}") };
    match keys.iter().any(|key| key.starts_with(&format!("{path}/"))) {
        true => "dir",
        false if keys.contains(&path) => "file",
        false => "absent",
    }
}

fn listed(keys: &Keys, at: &str) -> Vec<String> {
    let prefix = if at.is_empty() { String::new() } else { format!("{at}/") };
    let tails = keys.iter().filter_map(|key| key.strip_prefix(&prefix));
    let names = tails.map(|tail| tail.split('/').next().unwrap_or_default().to_owned());
    let mut names: Vec<String> = names.filter(|name| EntryName::parse(name).is_ok()).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|name| if expected(keys, at, &name) == "dir" { format!("{name}/") } else { name }).collect()
}

/// Keys as they were since each moment.
struct History(Vec<(Instant, Keys)>);

impl History {
    /// Every state that held at some time from `as_of` on.
    fn since(&self, as_of: Instant) -> impl Iterator<Item = &Keys> {
        let last_before = self.0.iter().rposition(|(at, _)| *at <= as_of).unwrap_or(0);
        // Changes within one instant: each of them may have been seen.
        let at = self.0[last_before].0;
        let first = self.0.iter().position(|(moment, _)| *moment == at).unwrap_or(0).saturating_sub(1);
        self.0[first..].iter().map(|(_, keys)| keys)
    }
}

async fn run(steps: Vec<Step>) {
    let (memory, runtime) = (MemoryOrigin::new(), runtime(1));
    let home = Home::new(runtime.clone(), origins(&runtime, &memory), &NameRoom::new(2 << 20));
    let mut keys = Keys::new();
    let mut history = History(vec![(Instant::now(), keys.clone())]);
    for step in steps {
        match step {
            Step::Put(key) => {
                memory.put(&key, "1");
                keys.insert(key);
                history.0.push((Instant::now(), keys.clone()));
            }
            Step::Remove(key) => {
                memory.remove(&key);
                keys.remove(&key);
                history.0.push((Instant::now(), keys.clone()));
            }
            Step::Look(at, text, now) => {
                let max_age = if now { Duration::ZERO } else { MINUTE };
                tokio::time::advance(Duration::from_millis(1)).await;
                let answer = home.lookup(id(), &dir(&at), &name(&text), max_age, soon()).await.expect("an answer");
                let kind = match answer.value {
                    Looked::File(_) => "file",
                    Looked::Dir => "dir",
                    Looked::Absent => "absent",
                };
                assert!(answer.as_of.elapsed() <= max_age, "too old");
                // A file is rechecked by a HEAD of its key alone: a directory that was put beside it since is seen by the
                // next listing.
                let right = |keys: &Keys| {
                    let expected = expected(keys, &at, &text);
                    let path = if at.is_empty() { text.clone() } else { format!("{at}/{text}") };
                    kind == expected || (kind == "file" && expected == "dir" && keys.contains(&path))
                };
                if now {
                    assert!(right(&keys), "{at}/{text} is not {kind} now");
                }
                let at_some_time = history.since(answer.as_of).any(right);
                assert!(at_some_time, "{at}/{text} was never {kind} since then");
            }
            Step::List(at, now) => {
                let max_age = if now { Duration::ZERO } else { MINUTE };
                tokio::time::advance(Duration::from_millis(1)).await;
                let answer = home.list(id(), &dir(&at), None, max_age, soon()).await.expect("an answer");
                assert!(answer.as_of.elapsed() <= max_age, "too old");
                let mut names = shown(&answer.value);
                names.sort();
                let sorted = |keys: &Keys| {
                    let mut names = listed(keys, &at);
                    names.sort();
                    names
                };
                if now {
                    assert_eq!(names, sorted(&keys), "{at} now");
                }
                assert!(history.since(answer.as_of).any(|keys| sorted(keys) == names), "{at} was never {names:?}");
            }
            Step::Wait(seconds) => tokio::time::advance(Duration::from_secs(seconds)).await,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn names_are_what_the_keys_say(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(run(steps));
    }
}
