//! What the node's CSI plugin asks of the mounter, and its end of the conversation: the packets of `message.rs`, over a
//! socket that only the plugin has, a connection for each request.
//!
//! | kind | number | text |
//! |---|---|---|
//! | 1 publish | 1: read-only | the volume as `namespace/name`, NUL, the target |
//! | 2 unpublish | 0 | the target |
//!
//! Targets are absolute paths as the kubelet names them. The answer is a [`Reply`](crate::Reply) without a descriptor.

use std::path::{Path, PathBuf};

use crate::client::{ClientError, connect_to, exchange};
use crate::message::{Malformed, packet, parts};

/// The error number of a refusal: no agent of this node has the volume mounted (ENXIO).
pub const NOT_SERVED: i32 = 6;

/// The error number of a refusal: nothing is ever put there (EINVAL).
pub const BAD_TARGET: i32 = 22;

/// What stands between two parts of a text: no path holds it.
const BETWEEN: char = '\0';

/// What the plugin asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginRequest {
    /// Bind the volume's mount at the target, a folder that is made for it. Asked again, nothing changes.
    Publish {
        /// As `namespace/name`.
        volume: String,
        /// Where the pod's volume is to be.
        target: String,
        /// Whether writing there must be impossible.
        is_read_only: bool,
    },
    /// Take that away, and the folder. Nothing there is fine.
    Unpublish {
        /// The same place.
        target: String,
    },
}

impl PluginRequest {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Publish { volume, target, is_read_only } => {
                packet(1, u64::from(*is_read_only), &format!("{volume}{BETWEEN}{target}"))
            }
            Self::Unpublish { target } => packet(2, 0, target),
        }
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, number, text) = parts(bytes)?;
        match kind {
            1 if number > 1 => Err(Malformed::Number { number }),
            1 => {
                let (volume, target) = text.split_once(BETWEEN).ok_or(Malformed::Part)?;
                Ok(Self::Publish { volume: volume.to_owned(), target: target.to_owned(), is_read_only: number == 1 })
            }
            2 => Ok(Self::Unpublish { target: text }),
            kind => Err(Malformed::Kind { kind }),
        }
    }
}

/// The plugin's end. Its calls block, for 30 s at most.
#[derive(Clone, Debug)]
pub struct PluginClient {
    path: PathBuf,
}

impl PluginClient {
    /// Nothing is connected before something is asked.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, request: &PluginRequest) -> Result<(), ClientError> {
        exchange(&connect_to(&self.path)?, &request.encode()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish() -> PluginRequest {
        PluginRequest::Publish { volume: "team/data".into(), target: "/k/m".into(), is_read_only: true }
    }

    #[test]
    fn requests_of_the_plugin_are_these_bytes() {
        assert_eq!(publish().encode(), b"\x01\x01\0\0\0\0\0\0\0team/data\0/k/m");
        let unpublish = PluginRequest::Unpublish { target: "/k/m".into() };
        assert_eq!(unpublish.encode(), b"\x02\0\0\0\0\0\0\0\0/k/m");
        for request in [publish(), unpublish] {
            assert_eq!(PluginRequest::decode(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn what_the_plugin_never_says_is_refused() {
        assert_eq!(PluginRequest::decode(&packet(1, 2, "a\0b")), Err(Malformed::Number { number: 2 }));
        assert_eq!(PluginRequest::decode(&packet(1, 1, "a/b")), Err(Malformed::Part));
        assert_eq!(PluginRequest::decode(&packet(3, 0, "")), Err(Malformed::Kind { kind: 3 }));
    }

    #[test]
    fn no_damage_of_the_plugins_requests_makes_it_panic() {
        let whole = publish().encode();
        for (place, byte) in (0..whole.len()).flat_map(|place| (0..=u8::MAX).map(move |byte| (place, byte))) {
            let mut packet = whole.clone();
            packet[place] = byte;
            for end in 0..=packet.len() {
                drop(PluginRequest::decode(&packet[..end]));
            }
        }
    }
}
