//! Conditions and their reasons: stable CamelCase strings, the same in conditions, Events and metrics.
//!
//! Owns the words and how a condition replaces its predecessor. Refuses the clock: the time is given. A condition's
//! `lastTransitionTime` changes only when its status does (Kubernetes API conventions).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Most conditions an object may have; a bound for the schema.
pub(crate) const CONDITIONS_MAX: u32 = 16;

/// Makes an enum of words, each with its stable text.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$word_doc])* $word,)+
        }

        impl $name {
            /// Every word, in order.
            pub const ALL: &'static [$name] = &[$($name::$word),+];

            /// The word as it appears in the API.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$word => stringify!($word),)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// The conditions of a CacheCluster.
    ClusterConditionType {
        /// This generation is observed, a map is published, at least minNodes nodes serve and every slot has a live owner.
        Ready,
        /// At least minNodes nodes with stores serve.
        MinNodesMet,
        /// Chunks move to where the map puts them.
        Rebalancing,
        /// Some slots or chunks have fewer copies than they should.
        Degraded,
        /// Agents are being replaced by what the spec and the operator want now. On Kubernetes only.
        Upgrading,
        /// The operator changes nothing, because the spec says so. On Kubernetes only.
        Paused,
        /// Nothing goes on before a person acts. There only while it is so; on Kubernetes only.
        Stalled,
    }
}

words! {
    /// The conditions of a CacheVolume.
    VolumeConditionType {
        /// The volume can be mounted and read.
        Ready,
        /// The origin answers with the volume's credentials.
        OriginReachable,
    }
}

words! {
    /// Why a CacheCluster is Ready or not, the most severe first.
    ClusterReadyReason {
        /// The spec contradicts itself in a way that the schema can't refuse.
        Invalid,
        /// An older CacheCluster has the same cacheId, or a store belongs to another cache.
        StoreConflict,
        /// No map was published yet: fewer than minNodes nodes have joined.
        WaitingForNodes,
        /// A map is published, but fewer than minNodes nodes serve.
        BelowMinNodes,
        /// Some slots have no live owner.
        SlotsLost,
        /// The object is being deleted.
        Deleting,
        /// All is well.
        Serving,
    }
}

words! {
    /// Whether a CacheCluster has the nodes it needs.
    MinNodesMetReason {
        /// Fewer than minNodes nodes serve.
        TooFewNodes,
        /// At least minNodes nodes serve.
        EnoughNodes,
    }
}

words! {
    /// Whether chunks move.
    RebalancingReason {
        /// Nodes hand over, or look who lacks something of what they have.
        HandingOver,
        /// Everything is where the map puts it, as far as there is room.
        Settled,
    }
}

words! {
    /// Whether there are as many copies as there should be.
    DegradedReason {
        /// Some slots have fewer live owners than they should.
        SlotsShort,
        /// Owners lack copies that other nodes are giving them.
        CopiesShort,
        /// Neither.
        AllCopies,
    }
}

words! {
    /// Whether agents are being replaced.
    UpgradingReason {
        /// An agent that was replaced isn't ready after five minutes: no other is touched until it is, or is replaced in turn.
        RolloutPaused,
        /// Agents are replaced one at a time.
        RollingOut,
        /// Every agent is as it should be.
        UpToDate,
    }
}

words! {
    /// Whether the operator changes anything.
    PausedReason {
        /// spec.paused is true.
        Paused,
        /// It isn't.
        NotPaused,
    }
}

words! {
    /// Why nothing goes on before a person acts.
    StalledReason {
        /// The spec contradicts itself, or the API server refuses what it asks for.
        Invalid,
        /// An older CacheCluster has the same cacheId.
        StoreConflict,
        /// The map is larger than what the API server keeps: it isn't published.
        MapTooLarge,
    }
}

words! {
    /// Why a CacheVolume is Ready or not, the most severe first.
    VolumeReadyReason {
        /// The spec contradicts itself in a way that the schema can't refuse.
        Invalid,
        /// There is no such CacheCluster.
        ClusterNotFound,
        /// The CacheCluster's allowedNamespaces don't include the volume's namespace.
        NamespaceNotAllowed,
        /// The origin's Secret is missing or lacks a key.
        SecretNotFound,
        /// The volume asks for more replicas than the cluster's minNodes.
        TooFewNodes,
        /// The volume asks for something that doesn't exist here.
        NotSupported,
        /// The object is being deleted.
        Deleting,
        /// Some node that serves hasn't mounted it yet.
        NotMounted,
        /// All is well.
        Serving,
    }
}

words! {
    /// What the origin said.
    OriginReachableReason {
        /// The credentials are not those of anybody the origin knows.
        BadCredentials,
        /// The credentials are known and not allowed to read here.
        AccessDenied,
        /// The bucket (or the local directory) doesn't exist.
        NoSuchBucket,
        /// No answer.
        Unreachable,
        /// No node has asked it yet.
        NotAsked,
        /// The origin answers.
        Reachable,
    }
}

words! {
    /// The three values of a condition's status.
    ConditionStatus {
        /// The condition holds.
        True,
        /// The condition doesn't hold.
        False,
        /// Nobody has looked yet.
        Unknown,
    }
}

/// A condition as of `now`, for the generation that was looked at. `reason` is one of the words above.
#[must_use]
pub fn condition(
    type_: impl std::fmt::Display,
    status: ConditionStatus,
    reason: impl std::fmt::Display,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Time,
) -> Condition {
    Condition {
        type_: type_.to_string(),
        status: status.to_string(),
        reason: reason.to_string(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: now,
    }
}

/// Puts `new` in the place of the condition of its type, or at the end. Keeps the old `lastTransitionTime` while the status stays.
///
/// Says whether anything but the time changed, so that a status is written only then.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).expect("a valid time"))
    }

    fn ready(status: ConditionStatus, reason: ClusterReadyReason, seconds: i64) -> Condition {
        condition(ClusterConditionType::Ready, status, reason, "", Some(1), at(seconds))
    }

    #[test]
    fn the_words_are_stable() {
        let words: Vec<&str> = ClusterReadyReason::ALL.iter().map(|word| word.as_str()).collect();
        assert_eq!(
            words,
            ["Invalid", "StoreConflict", "WaitingForNodes", "BelowMinNodes", "SlotsLost", "Deleting", "Serving"]
        );
        let words: Vec<&str> = VolumeReadyReason::ALL.iter().map(|word| word.as_str()).collect();
        assert_eq!(
            words,
            [
                "Invalid",
                "ClusterNotFound",
                "NamespaceNotAllowed",
                "SecretNotFound",
                "TooFewNodes",
                "NotSupported",
                "Deleting",
                "NotMounted",
                "Serving"
            ]
        );
        let words: Vec<&str> = OriginReachableReason::ALL.iter().map(|word| word.as_str()).collect();
        assert_eq!(words, ["BadCredentials", "AccessDenied", "NoSuchBucket", "Unreachable", "NotAsked", "Reachable"]);
        assert!(ClusterReadyReason::Invalid < ClusterReadyReason::Serving, "most severe first");
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        use ConditionStatus::{False, True};
        let mut conditions = Vec::new();
        assert!(set_condition(&mut conditions, ready(False, ClusterReadyReason::WaitingForNodes, 1)));
        assert!(!set_condition(&mut conditions, ready(False, ClusterReadyReason::WaitingForNodes, 2)));
        assert!(set_condition(&mut conditions, ready(False, ClusterReadyReason::SlotsLost, 3)));
        assert_eq!(conditions[0].last_transition_time, at(1));
        assert!(set_condition(&mut conditions, ready(True, ClusterReadyReason::Serving, 4)));
        assert_eq!(conditions[0].last_transition_time, at(4));
        assert_eq!(conditions.len(), 1);
    }
}
