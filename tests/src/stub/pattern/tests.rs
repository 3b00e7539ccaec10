//! The pattern is the same from every offset, and tells versions apart.

use super::*;

#[test]
fn mix_has_an_inverse() {
    for value in [0, 1, 7, u64::MAX, 0x1234_5678_9abc_def0] {
        assert_eq!(unmix(mix(value)), value);
    }
}

#[test]
fn any_piece_equals_the_whole() {
    let mut whole = vec![0; 3 * 4096 + 100];
    fill("k", 5, 0, &mut whole);
    assert_eq!(&whole[0..8], key_hash("k").to_le_bytes());
    assert_eq!(&whole[4096 + 8..4096 + 16], 5u64.to_le_bytes());
    assert_eq!(&whole[4096 + 16..4096 + 24], 1u64.to_le_bytes());
    for (offset, len) in [(0, 1), (1, 30), (4090, 20), (4096, 4096), (7, 8200), (12287, 101), (3, 4)] {
        let mut piece = vec![0; len];
        fill("k", 5, offset as u64, &mut piece);
        assert_eq!(piece, whole[offset..offset + len], "{offset}+{len}");
        check_version("k", 5, offset as u64, &piece).unwrap();
        if len > 40 {
            assert_eq!(check("k", offset as u64, &piece), Ok(5), "{offset}+{len}");
        }
    }
}

#[test]
fn mixtures_and_strangers_show() {
    let mut bytes = vec![0; 16384];
    fill("k", 1, 0, &mut bytes);
    fill("k", 2, 8192, &mut bytes[8192..]);
    // The first word of a block is the key's hash, which the versions share.
    assert_eq!(check("k", 0, &bytes), Err(Mismatch::Mixed { first: 1, found: 2, at: 8200 }));
    fill("k", 1, 0, &mut bytes);
    fill("k", 2, 6000, &mut bytes[6000..6100]);
    assert!(check("k", 0, &bytes).is_err());
    fill("k", 1, 0, &mut bytes);
    bytes[5000] ^= 1;
    assert!(matches!(check("k", 0, &bytes), Err(Mismatch::Wrong { at: 5000, version: 1, .. })));
    fill("k", 1, 4096, &mut bytes);
    assert!(check("k", 0, &bytes).is_err(), "another block");
    fill("other", 1, 0, &mut bytes);
    assert!(check("k", 0, &bytes).is_err(), "another key");
}

#[test]
fn short_pieces_need_a_version() {
    let mut piece = [0; 5];
    fill("k", 9, 4001, &mut piece);
    assert_eq!(check("k", 4001, &piece), Err(Mismatch::TooShort { offset: 4001, len: 5 }));
    check_version("k", 9, 4001, &piece).unwrap();
    assert!(check_version("k", 8, 4001, &piece).is_err());
    assert_eq!(check("k", 0, &[]), Ok(0));
}
