//! Packed fields: the examples of RFC 7541, what cannot be read, and that what is packed is read.

use proptest::prelude::*;

use super::*;

type Told = Vec<(String, String)>;

fn read(unpacker: &mut Unpacker, list: &[u8]) -> Result<Told, Unreadable> {
    let mut told = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    unpacker.read(list, |name, value| told.push((text(name), text(value))))?;
    Ok(told)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Told {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// RFC 7541 appendix C.2: each kind of field by itself.
#[test]
fn each_kind_of_field_is_read() {
    for (list, field, kept) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", ("custom-key", "custom-header"), 55),
        ("040c 2f73 616d 706c 652f 7061 7468", (":path", "/sample/path"), 0),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", ("password", "secret"), 0),
        ("82", (":method", "GET"), 0),
    ] {
        let mut unpacker = Unpacker::default();
        assert_eq!(read(&mut unpacker, &hex(list)), Ok(pairs(&[field])), "{list}");
        assert_eq!(unpacker.table.size, kept, "{list}");
    }
}

/// RFC 7541 appendices C.5 and C.6: three answers, one after the other, with a table of 256 bytes: plain, and
/// shortened. Entries are thrown out by the second and the third.
#[test]
fn answers_are_read_one_after_the_other() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ];
    let shortened = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let date = "Mon, 21 Oct 2013 20:13:21 GMT";
    let location = ("location", "https://www.example.com");
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let expected = [
        pairs(&[(":status", "302"), ("cache-control", "private"), ("date", date), location]),
        pairs(&[(":status", "307"), ("cache-control", "private"), ("date", date), location]),
        pairs(&[
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            location,
            ("content-encoding", "gzip"),
            ("set-cookie", cookie),
        ]),
    ];
    for lists in [plain, shortened] {
        let mut unpacker = Unpacker::default();
        unpacker.table.resize(256);
        for ((list, expected), size) in lists.into_iter().zip(&expected).zip([222, 222, 215]) {
            assert_eq!(read(&mut unpacker, &hex(list)).as_ref(), Ok(expected), "{list}");
            assert_eq!(unpacker.table.size, size, "{list}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_told() {
    for (list, why) in [
        ("80", "number 0"),
        ("be", "the first entry of an empty table"),
        ("7e 00", "a name that is not there"),
        ("ff 80 80 80 80 01", "a number of five bytes"),
        ("ff", "a number without its end"),
        ("82 20", "a new size behind a field"),
        ("3f e2 1f", "a size of 4097"),
        ("00 02 61", "a name that is cut off"),
        ("00 01 61", "no value"),
        ("00 01 61 81 06", "a shortened text with an end that is none"),
    ] {
        assert_eq!(read(&mut Unpacker::default(), &hex(list)), Err(Unreadable), "{why}");
    }
}

#[test]
fn the_table_is_as_small_as_the_other_side_has_it() {
    let mut unpacker = Unpacker::default();
    let field = hex("4001 6101 62");
    assert_eq!(read(&mut unpacker, &[&field[..], b"\xbe"].concat()), Ok(pairs(&[("a", "b"), ("a", "b")])));
    // Emptied, and large again: the entry is gone.
    assert_eq!(read(&mut unpacker, &hex("20 3fe11f be")), Err(Unreadable));
    assert_eq!(read(&mut unpacker, &hex("20 82")), Ok(pairs(&[(":method", "GET")])), "a small size is one too");
    // One byte too small for an entry, which is read all the same, and then just as large.
    assert_eq!(read(&mut unpacker, &[&hex("3f02")[..], &field, b"\xbe"].concat()), Err(Unreadable));
    assert_eq!(
        read(&mut unpacker, &[&hex("3f03")[..], &field, b"\xbe"].concat()),
        Ok(pairs(&[("a", "b"), ("a", "b")]))
    );
}

#[test]
fn a_large_text_leaves_no_large_room() {
    let mut unpacker = Unpacker::default();
    let mut list = Vec::new();
    put_field(&mut list, b"name", &vec![b'x'; 10_000], Keep::Not);
    read(&mut unpacker, &list).unwrap();
    assert!(unpacker.value.capacity() <= KEPT_BYTES && unpacker.table.size == 0);
}

/// RFC 7541 appendix C.2.2 and C.2.3: as the examples have it, but for the name, which is always written out.
#[test]
fn fields_are_packed_as_the_examples_are() {
    let mut out = Vec::new();
    put_value(&mut out, 4, b"/sample/path");
    put_field(&mut out, b"password", b"secret", Keep::Never);
    put_known(&mut out, 2);
    assert_eq!(out, hex("040c 2f73 616d 706c 652f 7061 7468 1008 7061 7373 776f 7264 0673 6563 7265 74 82"));
}

proptest! {
    #[test]
    fn what_is_packed_is_read(
        fields in proptest::collection::vec(("[ -~]{0,300}", "[ -~]{0,40000}", any::<bool>()), 0..4),
    ) {
        let mut out = Vec::new();
        for (name, value, secret) in &fields {
            let keep = if *secret { Keep::Never } else { Keep::Not };
            put_field(&mut out, name.as_bytes(), value.as_bytes(), keep);
        }
        let told: Told = fields.into_iter().map(|(name, value, _)| (name, value)).collect();
        let mut unpacker = Unpacker::default();
        prop_assert_eq!(read(&mut unpacker, &out), Ok(told));
        prop_assert!(unpacker.table.entries.is_empty(), "nothing of it is kept");
    }

    /// Whatever comes, the table is no larger than it may be, and counts what it holds.
    #[test]
    fn the_table_keeps_to_its_size(lists in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8)) {
        let mut unpacker = Unpacker::default();
        for list in lists {
            let _ = read(&mut unpacker, &list);
            let size: usize = unpacker.table.entries.iter().map(|entry| entry.text.len() + ENTRY_BYTES).sum();
            prop_assert!(size == unpacker.table.size && size <= unpacker.table.most && unpacker.table.most <= TABLE_BYTES);
        }
    }
}
