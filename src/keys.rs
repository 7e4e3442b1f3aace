//! Keys as people write and read them.
//!
//! One place does the layering for every command, and what is printed can be typed in again.
//!
//! | form | means |
//! |---|---|
//! | `user:1` | these bytes |
//! | `hex:75736572` | bytes in hexadecimal |
//! | `esc:a\x00b` | bytes with `\xNN`, `\NNN` (octal), `\n`, `\r`, `\t`, `\"` and `\\` |
//! | `enc:61…fa` | the memcomparable encoding of a key, in hexadecimal: the form regions are cut in |
//! | `enc(user:1)` | the same of a key in any of these forms, as `ctl regions` prints bounds |
//! | `data:zuser\0001…` | a key as TiKV's tools print it: escaped, in its engine, behind a `z` |
//! | `text:hex:a` | these bytes, even if they look like another form |
//!
//! A **bound** is a key in the form that regions are cut in: raw keys of API version 1 as they are, all others
//! memcomparable-encoded. Where a bound is meant the forms of an encoding (`enc:`, `enc(…)`, `data:`) stay
//! encoded; elsewhere they mean the user's key.

use proto::memcomparable;

const FORMS: [&str; 6] = ["hex:", "esc:", "enc:", "enc(", "data:", "text:"];

/// The bytes that a person means.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, String> {
    if let Some(digits) = text.strip_prefix("hex:") {
        unhex(digits).ok_or_else(|| format!("\"{text}\" is not pairs of hexadecimal digits"))
    } else if let Some(escaped) = text.strip_prefix("esc:") {
        unescape(escaped)
            .ok_or_else(|| format!("\"{text}\" holds a \\ that is followed by no known escape"))
    } else if let Some(encoded) = encoded(text) {
        let key = memcomparable::decode(&encoded?);
        key.ok_or_else(|| format!("\"{text}\" is not a memcomparable encoding"))
    } else {
        Ok(text.strip_prefix("text:").unwrap_or(text).as_bytes().to_vec())
    }
}

/// What a form of an encoding holds; `None` when the text is of another form.
fn encoded(text: &str) -> Option<Result<Vec<u8>, String>> {
    if let Some(digits) = text.strip_prefix("enc:") {
        Some(unhex(digits).ok_or_else(|| format!("\"{text}\" is not pairs of hexadecimal digits")))
    } else if let Some(key) = text.strip_prefix("enc(").and_then(|key| key.strip_suffix(')')) {
        Some(parse(key).map(|key| memcomparable::encode(&key).to_vec()))
    } else if let Some(escaped) = text.strip_prefix("data:") {
        let bytes = escaped.strip_prefix('z').and_then(unescape);
        Some(bytes.ok_or_else(|| format!("\"{text}\" is not a z and an escaped key behind it")))
    } else {
        None
    }
}

/// For clap: a key argument.
pub(crate) fn parse_argument(text: &str) -> Result<Key, String> {
    parse(text).map(Key)
}

/// A key given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Vec<u8>);

/// The shortest form that [`parse`] reads back: plain where every byte prints, else hexadecimal.
pub(crate) fn show(bytes: &[u8]) -> String {
    let printable = bytes.iter().all(|byte| (0x20..=0x7e).contains(byte));
    match std::str::from_utf8(bytes) {
        Ok(text) if printable && FORMS.iter().any(|form| text.starts_with(form)) => {
            format!("text:{text}")
        }
        Ok(text) if printable => text.to_owned(),
        _ => format!("hex:{}", hex(bytes)),
    }
}

/// A bound of a region: the bytes, and the user key where they are an encoding of one.
pub(crate) fn show_bound(bytes: &[u8], infinity: &str) -> String {
    if bytes.is_empty() {
        return infinity.to_owned();
    }
    match memcomparable::decode(bytes) {
        Some(key) => format!("enc({})", show(&key)),
        None => show(bytes),
    }
}

/// A bound given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    /// In the form that regions are cut in.
    pub(crate) bytes: Vec<u8>,
    /// Whether it was written as an encoding.
    pub(crate) is_encoded: bool,
}

/// For clap: a bound argument. Encodings stay what they are.
pub(crate) fn parse_bound(text: &str) -> Result<Bound, String> {
    let Some(bytes) = encoded(text) else {
        return Ok(Bound { bytes: parse(text)?, is_encoded: false });
    };
    let bytes = bytes?;
    if memcomparable::decode(&bytes).is_none() {
        return Err(format!("\"{text}\" is not a memcomparable encoding"));
    }
    Ok(Bound { bytes, is_encoded: true })
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            byte @ (b'\\' | b'"') => byte,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => number(&[rest.next()?, rest.next()?], 16)?,
            first @ b'0'..=b'3' => number(&[first, rest.next()?, rest.next()?], 8)?,
            _ => return None,
        });
    }
    Some(bytes)
}

fn number(digits: &[u8], radix: u32) -> Option<u8> {
    let are_digits = digits.iter().all(|digit| char::from(*digit).is_digit(radix));
    let text = std::str::from_utf8(digits).ok().filter(|_| are_digits)?;
    u8::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read() {
        assert_eq!(parse("user:1").unwrap(), b"user:1");
        assert_eq!(parse("hex:00ff").unwrap(), [0, 255]);
        assert_eq!(parse(r"esc:a\x00\\\n").unwrap(), b"a\0\\\n");
        assert_eq!(parse("enc:616263000000000 0fa".replace(' ', "").as_str()).unwrap(), b"abc");
        assert_eq!(parse("enc(hex:00ff)").unwrap(), [0, 255]);
        assert_eq!(parse(r"data:zabc\000\000\x00\000\000\372").unwrap(), b"abc");
        assert_eq!(parse(r#"esc:\"\101"#).unwrap(), b"\"A");
        assert_eq!(parse("text:hex:00").unwrap(), b"hex:00");
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        let nonsense = [
            "hex:0",
            "hex:zz",
            "hex:ää",
            r"esc:\q",
            r"esc:\x0",
            r"esc:\x+1",
            r"esc:\400",
            "enc:00",
            "data:abc",
            r"data:z\q",
        ];
        for nonsense in nonsense {
            assert!(parse(nonsense).is_err_and(|error| error.contains(nonsense)), "{nonsense}");
        }
    }

    #[test]
    fn a_bound_is_an_encoding_or_the_bytes_themselves() {
        let encoded = memcomparable::encode(b"abc").to_vec();
        for text in [
            "enc(abc)",
            "enc(hex:616263)",
            "enc:6162630000000000fa",
            r"data:zabc\000\000\000\000\000\372",
        ] {
            let bound = Bound { bytes: encoded.clone(), is_encoded: true };
            assert_eq!(parse_bound(text), Ok(bound), "{text}");
        }
        let plain = Bound { bytes: b"abc".to_vec(), is_encoded: false };
        assert_eq!(parse_bound("abc"), Ok(plain));
        for nonsense in ["enc(hex:6)", "enc:00", "hex:zz"] {
            assert!(parse_bound(nonsense).is_err(), "{nonsense}");
        }
        for bytes in [&encoded[..], b"m", b"enc(a)", b"enc:a", b"\0"] {
            assert_eq!(parse_bound(&show_bound(bytes, "+inf")).unwrap().bytes, bytes);
        }
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for bytes in
            [&b"plain"[..], b"hex:looks", b"enc(x)", b"data:z", b"\0\xff", b"", "ä".as_bytes()]
        {
            assert_eq!(parse(&show(bytes)).unwrap(), bytes);
        }
        assert_eq!(show_bound(&memcomparable::encode(b"abc"), "+inf"), "enc(abc)");
        assert_eq!(show_bound(b"", "+inf"), "+inf");
    }
}
