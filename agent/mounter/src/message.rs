//! Requests and replies as bytes.
//!
//! | field | bytes |
//! |---|---|
//! | kind | 1 |
//! | number (1: a mount point; read-ahead in bytes; errno), little-endian | 8 |
//! | text (path, name, `namespace/name` of an offer, message), UTF-8 | the rest, at most 4 KiB |
//!
//! Both programs may be of different versions for a while: kinds are only added.

/// The longest text: Linux's longest path.
pub const TEXT_BYTES_MAX: usize = 4_096;

const HEAD: usize = 9;

/// The longest packet.
pub const PACKET_BYTES_MAX: usize = HEAD + TEXT_BYTES_MAX;

/// What an agent asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make this host path's folder for the cluster, for the agent alone.
    Prepare {
        /// As the node has it.
        host_path: String,
        /// Whether a disk must be mounted there.
        is_mount_point: bool,
    },
    /// Mount a new FUSE file system by this name. The reply brings its connection.
    Mount {
        /// One path component.
        name: String,
    },
    /// Take it away.
    Unmount {
        /// Its name.
        name: String,
    },
    /// How far the kernel reads ahead on it.
    ReadAhead {
        /// Its name.
        name: String,
        /// How far.
        bytes: u64,
    },
    /// The mount of this name is the volume of the same name in this namespace: pods may be given it, as long as it is mounted.
    Offer {
        /// The mount's name.
        name: String,
        /// The volume's namespace.
        namespace: String,
    },
}

/// What the mounter answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done; a mount's connection comes along.
    Done,
    /// It isn't.
    Refused {
        /// The system's error number; 0 when it is the mounter's own word.
        errno: i32,
        /// Why, for people.
        why: String,
    },
}

/// Not a message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter or longer than a message.
    #[error("a packet of {bytes} bytes is no message")]
    Length {
        /// How long.
        bytes: usize,
    },
    /// A kind that this version doesn't know.
    #[error("a message of kind {kind} is unknown")]
    Kind {
        /// Which.
        kind: u8,
    },
    /// Text that isn't UTF-8.
    #[error("a message's text is not UTF-8")]
    Text,
    /// A text of two parts that has one.
    #[error("a message's text lacks a part")]
    Part,
    /// A number that can't be.
    #[error("a message's number is {number}")]
    Number {
        /// Which.
        number: u64,
    },
}

impl Request {
    /// As bytes; a text longer than 4 KiB makes a packet that nobody takes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Prepare { host_path, is_mount_point } => packet(1, u64::from(*is_mount_point), host_path),
            Self::Mount { name } => packet(2, 0, name),
            Self::Unmount { name } => packet(3, 0, name),
            Self::ReadAhead { name, bytes } => packet(4, *bytes, name),
            Self::Offer { name, namespace } => packet(5, 0, &format!("{namespace}/{name}")),
        }
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, number, text) = parts(bytes)?;
        match kind {
            1 if number <= 1 => Ok(Self::Prepare { host_path: text, is_mount_point: number == 1 }),
            1 => Err(Malformed::Number { number }),
            2 => Ok(Self::Mount { name: text }),
            3 => Ok(Self::Unmount { name: text }),
            4 => Ok(Self::ReadAhead { name: text, bytes: number }),
            5 => {
                let (namespace, name) = text.split_once('/').ok_or(Malformed::Part)?;
                Ok(Self::Offer { name: name.to_owned(), namespace: namespace.to_owned() })
            }
            kind => Err(Malformed::Kind { kind }),
        }
    }
}

impl Reply {
    /// As bytes; a long text is cut.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Done => packet(1, 0, ""),
            Self::Refused { errno, why } => {
                let mut end = why.len().min(TEXT_BYTES_MAX);
                while !why.is_char_boundary(end) {
                    end -= 1;
                }
                packet(2, u64::from(errno.unsigned_abs()), &why[..end])
            }
        }
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, number, text) = parts(bytes)?;
        match kind {
            1 => Ok(Self::Done),
            2 => {
                let errno = i32::try_from(number).map_err(|_| Malformed::Number { number })?;
                Ok(Self::Refused { errno, why: text })
            }
            kind => Err(Malformed::Kind { kind }),
        }
    }
}

pub(crate) fn packet(kind: u8, number: u64, text: &str) -> Vec<u8> {
    [&[kind][..], &number.to_le_bytes(), text.as_bytes()].concat()
}

/// Kind, number and text; the text is no longer than it may be.
pub(crate) fn parts(bytes: &[u8]) -> Result<(u8, u64, String), Malformed> {
    let malformed = Malformed::Length { bytes: bytes.len() };
    let (kind, rest) = bytes.split_first().ok_or(malformed)?;
    let (number, text) = rest.split_first_chunk::<8>().ok_or(malformed)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(malformed);
    }
    let text = str::from_utf8(text).map_err(|_| Malformed::Text)?;
    Ok((*kind, u64::from_le_bytes(*number), text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_damage_makes_it_panic() {
        let whole = Request::ReadAhead { name: "data".into(), bytes: u64::MAX }.encode();
        for (place, byte) in (0..whole.len()).flat_map(|place| (0..=u8::MAX).map(move |byte| (place, byte))) {
            let mut packet = whole.clone();
            packet[place] = byte;
            for end in 0..=packet.len() {
                drop((Request::decode(&packet[..end]), Reply::decode(&packet[..end])));
            }
        }
    }

    #[test]
    fn requests_are_these_bytes() {
        let read_ahead = Request::ReadAhead { name: "data".into(), bytes: 0x0102 };
        assert_eq!(read_ahead.encode(), b"\x04\x02\x01\0\0\0\0\0\0data");
        let offer = Request::Offer { name: "data".into(), namespace: "team".into() };
        assert_eq!(offer.encode(), b"\x05\0\0\0\0\0\0\0\0team/data");
        for request in [
            read_ahead,
            Request::Prepare { host_path: "/mnt/nvme0".into(), is_mount_point: false },
            Request::Prepare { host_path: "/mnt/nvme0".into(), is_mount_point: true },
            Request::Mount { name: "data".into() },
            Request::Unmount { name: "data".into() },
            Request::Offer { name: "data".into(), namespace: "team".into() },
        ] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn replies_are_these_bytes() {
        let refused = Reply::Refused { errno: 17, why: "there".into() };
        assert_eq!(refused.encode(), b"\x02\x11\0\0\0\0\0\0\0there");
        assert_eq!(Reply::decode(&refused.encode()), Ok(refused));
        assert_eq!(Reply::decode(&Reply::Done.encode()), Ok(Reply::Done));
        let long = Reply::Refused { errno: 0, why: "ä".repeat(TEXT_BYTES_MAX) };
        assert!(Reply::decode(&long.encode()).is_ok(), "cut, and still text");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(Request::decode(b""), Err(Malformed::Length { bytes: 0 }));
        assert_eq!(Request::decode(&[1; 8]), Err(Malformed::Length { bytes: 8 }));
        assert_eq!(Request::decode(&packet(9, 0, "")), Err(Malformed::Kind { kind: 9 }));
        assert_eq!(Request::decode(b"\x01\0\0\0\0\0\0\0\0\xff"), Err(Malformed::Text));
        assert_eq!(Request::decode(&packet(5, 0, "data")), Err(Malformed::Part));
        let long = packet(1, 0, &"a".repeat(TEXT_BYTES_MAX + 1));
        assert_eq!(Request::decode(&long), Err(Malformed::Length { bytes: PACKET_BYTES_MAX + 1 }));
        assert_eq!(Request::decode(&packet(1, 2, "/mnt")), Err(Malformed::Number { number: 2 }));
        let number = u64::MAX;
        assert_eq!(Reply::decode(&packet(2, number, "")), Err(Malformed::Number { number }));
    }
}
