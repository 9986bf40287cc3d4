//! Our deterministic CBOR against a crate's decoder, and what a strict reader must refuse.

use ciborium::Value;
use proptest::prelude::*;

use super::*;

fn write(value: &Value, w: &mut Writer) {
    match value {
        Value::Integer(n) => w.int(i128::from(*n)),
        Value::Bytes(b) => w.bytes(b),
        Value::Text(t) => w.text(t),
        Value::Bool(b) => w.bool(*b),
        Value::Null => w.null(),
        Value::Array(items) => {
            w.array(items.len());
            items.iter().for_each(|i| write(i, w));
        }
        Value::Map(pairs) => {
            w.map(pairs.len());
            pairs.iter().for_each(|(k, v)| {
                write(k, w);
                write(v, w);
            });
        }
        other => panic!("not in this test: {other:?}"),
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(|n| Value::Integer(n.into())),
        any::<i64>().prop_map(|n| Value::Integer(n.into())),
        (0u64..300).prop_map(|n| Value::Integer(n.into())),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
        ".{0,40}".prop_map(Value::Text),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..30).prop_map(Value::Array),
            proptest::collection::btree_map(any::<u16>(), inner, 0..30)
                .prop_map(|m| Value::Map(m.into_iter().map(|(k, v)| (Value::Integer(k.into()), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn our_bytes_are_those_of_ciborium_and_pass_our_own_decoder(value in values()) {
        let mut ours = Writer::new();
        write(&value, &mut ours);
        let ours = ours.into_bytes();
        let mut theirs = Vec::new();
        ciborium::into_writer(&value, &mut theirs).unwrap();
        prop_assert_eq!(&ours, &theirs);
        let mut reader = Reader::new(&ours);
        reader.skip().unwrap();
        reader.finish().unwrap();
    }

    #[test]
    fn any_integer_comes_back_and_ciborium_reads_it(n in any::<i128>()) {
        let mut w = Writer::new();
        w.int(n);
        let bytes = w.into_bytes();
        let mut r = Reader::new(&bytes);
        prop_assert_eq!(r.int().unwrap(), n);
        r.finish().unwrap();
        prop_assert_eq!(ciborium::from_reader::<i128, _>(&bytes[..]).unwrap(), n);
    }

    #[test]
    fn what_the_decoder_accepts_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut r = Reader::new(&bytes);
        if r.skip().is_ok() && r.finish().is_ok() {
            let value: Value = ciborium::from_reader(&bytes[..]).unwrap();
            let mut again = Vec::new();
            ciborium::into_writer(&value, &mut again).unwrap();
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(value in values(), at in any::<prop::sample::Index>(), with in 1u8..) {
        let mut w = Writer::new();
        write(&value, &mut w);
        let mut bytes = w.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let _ = Reader::new(&bytes).skip();
    }
}

#[test]
fn what_is_not_deterministic_is_refused() {
    for (hex, why) in [
        ("1800", "0 in two bytes"),
        ("190017", "23 in three bytes"),
        ("1a0000ffff", "65535 in five bytes"),
        ("1b00000000ffffffff", "2^32-1 in nine bytes"),
        ("5f4100ff", "indefinite length"),
        ("9fff", "indefinite array"),
        ("a201000100", "a key twice"),
        ("a202000100", "keys out of order"),
        ("f90000", "a float"),
        ("f7", "undefined"),
        ("c249000000000000000001", "a bignum that fits an integer"),
        ("c24a00010000000000000000", "a bignum with a leading zero"),
        ("c101", "a tag"),
        ("62c328", "text that is not UTF-8"),
        ("9bffffffffffffffff", "more elements than bytes"),
        ("41", "a string that ends early"),
    ] {
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert!(Reader::new(&bytes).skip().is_err(), "{why}");
    }
    assert_eq!(Reader::new(&[0x81; 40]).skip(), Err(CborError::TooDeep));
    let mut r = Reader::new(&[0x00, 0x00]);
    r.skip().unwrap();
    assert_eq!(r.finish(), Err(CborError::Trailing(1)));
}
