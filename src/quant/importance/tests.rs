//! The two file formats, sound and broken.

use super::*;

/// A legacy file of one tensor with these values, then whatever follows.
fn dat(name: &str, calls: i32, values: &[f32], rest: &[u8]) -> Vec<u8> {
    let mut bytes = 1i32.to_le_bytes().to_vec();
    bytes.extend((name.len() as i32).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(calls.to_le_bytes());
    bytes.extend((values.len() as i32).to_le_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(rest);
    bytes
}

fn read(bytes: &[u8]) -> Result<Importance, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("importance");
    std::fs::write(&path, bytes).unwrap();
    Importance::read(&path).map_err(|error| error.to_string())
}

#[test]
fn a_legacy_file_holds_means_times_calls() {
    let origin = [&8i32.to_le_bytes()[..], &5i32.to_le_bytes(), b"a.txt"].concat();
    let importance = read(&dat("blk.0.attn_q.weight", 8, &[4.0, 2.0, 0.0], &origin)).unwrap();
    assert_eq!(importance.of("blk.0.attn_q.weight"), Some(&[0.5, 0.25, 0.0][..]));
    assert_eq!((importance.len(), importance.chunks()), (1, 8));
    assert_eq!(importance.datasets(), ["a.txt"]);
    // Old files end after the tensors, or hold the means themselves.
    let importance = read(&dat("x", 0, &[4.0], &[])).unwrap();
    assert_eq!((importance.of("x"), importance.chunks()), (Some(&[4.0][..]), 0));
    assert!(importance.of("y").is_none() && importance.datasets().is_empty());
}

#[test]
fn broken_legacy_files_say_what_is_wrong() {
    let sound = dat("x", 1, &[1.0, 2.0], &[]);
    let huge = [&sound[..13], &i32::MAX.to_le_bytes(), &sound[17..]].concat();
    for (bytes, expected) in [
        (b"".to_vec(), "neither a GGUF file nor a legacy importance file"),
        (b"hello, world".to_vec(), "neither a GGUF file nor a legacy importance file"),
        (0i32.to_le_bytes().to_vec(), "declares no tensor"),
        ((-1i32).to_le_bytes().to_vec(), "found -1"),
        (sound[..sound.len() - 1].to_vec(), "only 7 bytes follow"),
        (huge, "only 8 bytes follow"),
        (dat("x", -1, &[1.0], &[]), "found -1"),
        (dat("x", 1, &[], &[0; 8]), "0 sums"),
        (dat("x", 1, &[1.0, f32::NAN], &[]), "\"x\" has NaN at column 1"),
        (dat("x", 1, &[f32::INFINITY], &[]), "\"x\" has inf at column 0"),
        (dat("x", 1, &[0.0, 0.0, -1.0], &[]), "\"x\" has -1 at column 2"),
        (dat("x", 1, &[1.0], &[1, 0, 0, 0, 0, 0, 0, 0, 9]), "1 bytes follow the end"),
        (dat("x", 1, &[1.0], &[1, 0, 0, 0, 9, 0, 0, 0, 9]), "only 1 bytes follow"),
    ] {
        let error = read(&bytes).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
