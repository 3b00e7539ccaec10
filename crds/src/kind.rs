//! The three kinds by name, as a closed set.
//!
//! Owns the group, the version and how a kind is called on a command line. Everything that must be done for each kind
//! matches on [`Kind`] exhaustively.

/// The API group of all kinds.
pub const GROUP: &str = "larder.dev";

/// The version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// A kind of Larder's API group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A set of nodes that pool their stores.
    CacheCluster,
    /// One origin seen through one cluster.
    CacheVolume,
    /// One node of one cluster.
    CacheNode,
}

impl Kind {
    /// Every kind, in the order in which a reader meets them.
    pub const ALL: [Kind; 3] = [Kind::CacheCluster, Kind::CacheVolume, Kind::CacheNode];

    /// The value of `kind` in an object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::CacheCluster => "CacheCluster",
            Kind::CacheVolume => "CacheVolume",
            Kind::CacheNode => "CacheNode",
        }
    }

    /// The plural that appears in URLs, lower case.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Kind::CacheCluster => "cacheclusters",
            Kind::CacheVolume => "cachevolumes",
            Kind::CacheNode => "cachenodes",
        }
    }

    /// The short name that kubectl accepts.
    #[must_use]
    pub fn short_name(self) -> &'static str {
        match self {
            Kind::CacheCluster => "cc",
            Kind::CacheVolume => "cv",
            Kind::CacheNode => "cn",
        }
    }

    /// The value of `apiVersion` in an object of any kind.
    #[must_use]
    pub fn api_version() -> String {
        format!("{GROUP}/{VERSION}")
    }

    /// The kind whose objects say `kind: name`; exact case, as the API server compares.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind that `kubectl get WORD` would list: short name, plural, singular or kind, in any case.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Kind> {
        let word = word.to_ascii_lowercase();
        Kind::ALL
            .into_iter()
            .find(|kind| word == kind.short_name() || word == kind.plural() || word == kind.name().to_ascii_lowercase())
    }
}
