//! The fault plan: rules that make chosen requests go wrong, each counting its hits so that a scenario can assert that
//! its fault happened.
//!
//! The first rule that matches a request and has hits left takes it. A rule with a probability draws from its own seeded
//! sequence, one draw for each request that matches, so that a run over the same requests repeats.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::operation::Operation;

/// Which requests, how often, and what happens to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultRule {
    /// HTTP method; `None` = any.
    #[serde(default)]
    pub method: Option<String>,
    /// Kind of request.
    #[serde(default)]
    pub op: FaultOp,
    /// Glob over the key: `*` is any run of characters (slashes too), `?` is one. For a LIST it is over the prefix.
    #[serde(default = "any_key")]
    pub key: String,
    /// Lets this many matching requests pass first.
    #[serde(default)]
    pub skip: u64,
    /// Hits at most; `None` = no end.
    #[serde(default)]
    pub count: Option<u64>,
    /// Of each matching request, 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// Of the draws.
    #[serde(default)]
    pub seed: u64,
    /// What happens.
    pub action: FaultAction,
}

fn any_key() -> String {
    "*".to_owned()
}

fn always() -> f64 {
    1.0
}

impl FaultRule {
    /// A rule for every request, without end.
    pub fn new(action: FaultAction) -> FaultRule {
        let (op, key, probability) = (FaultOp::Any, any_key(), always());
        FaultRule { method: None, op, key, skip: 0, count: None, probability, seed: 0, action }
    }

    /// Only requests of this kind.
    pub fn op(mut self, op: FaultOp) -> FaultRule {
        self.op = op;
        self
    }

    /// Only requests with this HTTP method.
    pub fn method(mut self, method: &str) -> FaultRule {
        self.method = Some(method.to_owned());
        self
    }

    /// Only keys (of a LIST: prefixes) that match the glob.
    pub fn key(mut self, glob: &str) -> FaultRule {
        self.key = glob.to_owned();
        self
    }

    /// At most `count` hits.
    pub fn times(mut self, count: u64) -> FaultRule {
        self.count = Some(count);
        self
    }

    /// Not the first `skip` matching requests.
    pub fn after(mut self, skip: u64) -> FaultRule {
        self.skip = skip;
        self
    }

    /// Each matching request with this probability, drawn from `seed`.
    pub fn chance(mut self, probability: f64, seed: u64) -> FaultRule {
        self.probability = probability;
        self.seed = seed;
        self
    }

    fn matches(&self, method: &str, operation: Operation, key: &str) -> bool {
        self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.op.covers(operation)
            && glob(&self.key, key)
    }
}

/// Kinds of request that a rule can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum FaultOp {
    #[default]
    Any,
    /// GET of an object.
    Get,
    /// HEAD of an object.
    Head,
    /// Either version of ListObjects.
    List,
    /// PUT of an object, copies included.
    Put,
    /// Any step of a multipart upload.
    Multipart,
    /// Of one object or of a batch.
    Delete,
    /// Of buckets.
    Bucket,
}

impl FaultOp {
    fn covers(self, operation: Operation) -> bool {
        self == FaultOp::Any || self == operation.kind()
    }
}

/// What happens to a request that a rule takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum FaultAction {
    /// Refused with this status: 503 and 429 as `SlowDown`, 500 as `InternalError`, 403 as `AccessDenied`.
    Status {
        /// 400 to 599.
        code: u16,
    },
    /// The connection is reset (RST) behind this many bytes of the body.
    Reset {
        /// Of the body.
        after_bytes: u64,
    },
    /// `Content-Length` is right, but the connection is closed (FIN) behind this many bytes.
    ShortBody {
        /// Of the body.
        after_bytes: u64,
    },
    /// `Content-Length` and the body lack this many bytes of what `Content-Range` promises; HTTP itself is content.
    WrongLength {
        /// Lacking at the end.
        missing_bytes: u64,
    },
    /// Right bytes under an `ETag` that the object never had.
    WrongEtag,
    /// The body comes at this speed.
    Drip {
        /// At least 1.
        bytes_per_s: u64,
    },
    /// Status 200 with an `InternalError` document instead of the content.
    ErrorBody,
    /// The first byte comes this much later.
    Delay {
        /// On top of the latency.
        ms: u64,
    },
    /// No answer, ever; the connection stays open.
    Hang,
}

/// A rule at work. Dropping the handle leaves the rule in place.
#[derive(Clone, Debug)]
pub struct FaultHandle {
    live: Arc<LiveRule>,
}

impl FaultHandle {
    /// Requests that this rule has spoilt so far.
    pub fn hits(&self) -> u64 {
        self.live.hits.load(Ordering::SeqCst)
    }

    /// The rule takes no further request; its hits stay readable.
    pub fn remove(&self) {
        self.live.removed.store(true, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct LiveRule {
    rule: FaultRule,
    seen: AtomicU64,
    hits: AtomicU64,
    draws: Mutex<u64>,
    removed: AtomicBool,
}

impl LiveRule {
    /// Whether this rule takes the request; counts it if so.
    fn takes(&self, method: &str, operation: Operation, key: &str) -> bool {
        if self.removed.load(Ordering::SeqCst) || !self.rule.matches(method, operation, key) {
            return false;
        }
        if self.seen.fetch_add(1, Ordering::SeqCst) < self.rule.skip || !self.drawn() {
            return false;
        }
        let limit = self.rule.count.unwrap_or(u64::MAX);
        self.hits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |hits| (hits < limit).then_some(hits + 1)).is_ok()
    }

    fn drawn(&self) -> bool {
        if self.rule.probability >= 1.0 {
            return true;
        }
        let mut state = self.draws.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = *state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((value ^ (value >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        unit < self.rule.probability
    }
}

/// A rule and how often it hit, for the control endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// As given.
    pub rule: FaultRule,
    /// Requests it spoilt.
    pub hits: u64,
}

/// All rules, in the order they were given.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    rules: Mutex<Vec<Arc<LiveRule>>>,
}

impl FaultPlan {
    pub(super) fn add(&self, rule: FaultRule) -> FaultHandle {
        let draws = Mutex::new(rule.seed);
        let (seen, hits, removed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let live = Arc::new(LiveRule { rule, seen, hits, draws, removed });
        self.rules.lock().push(live.clone());
        FaultHandle { live }
    }

    pub(super) fn clear(&self) {
        self.rules.lock().clear();
    }

    /// The action of the first rule that takes this request.
    pub(super) fn pick(&self, method: &str, operation: Operation, key: &str) -> Option<FaultAction> {
        let rules = self.rules.lock();
        rules.iter().find(|live| live.takes(method, operation, key)).map(|live| live.rule.action.clone())
    }

    pub(super) fn report(&self) -> Vec<FaultReport> {
        let rules = self.rules.lock();
        rules.iter().map(|l| FaultReport { rule: l.rule.clone(), hits: l.hits.load(Ordering::SeqCst) }).collect()
    }
}

/// Whether `text` matches `pattern`; `*` is any run, `?` any one character. Linear memory, no recursion.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}
