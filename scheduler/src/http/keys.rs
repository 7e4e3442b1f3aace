//! Keys in paths and queries.
//!
//! A key is any bytes: the order-preserving form that regions are cut in is full of 0xFF, so most keys are no
//! text. They come percent-encoded, with `+` for a space in paths as well as in queries, and with
//! `format=hex` as hexadecimal digits. What cannot be decoded is refused rather than read as the empty key,
//! which would mean the first of all.

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;
use bytes::Bytes;
use proto::KeyRange;

use super::{Failure, format};

/// Decodes percent-encoded bytes.
fn decode(text: &str) -> Result<Vec<u8>, Failure> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).and_then(|pair| {
                    let high = char::from(pair[0]).to_digit(16)?;
                    u8::try_from(high * 16 + char::from(pair[1]).to_digit(16)?).ok()
                });
                let byte = digits.ok_or_else(|| {
                    Failure::bad_request(format!(
                        "{text:?} is not percent-encoded: a % stands alone"
                    ))
                })?;
                decoded.push(byte);
                at += 3;
            }
            b'+' => {
                decoded.push(b' ');
                at += 1;
            }
            byte => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Ok(decoded)
}

/// The parameters of a query, whose values may be any bytes.
#[derive(Debug)]
pub(super) struct Parameters {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Parameters {
    fn read(query: &str) -> Result<Self, Failure> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self { pairs: pairs.collect::<Result<_, Failure>>()? })
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let named = self.pairs.iter().find(|(of, _)| of == name.as_bytes());
        named.map(|(_, value)| value.as_slice())
    }

    /// Whether the parameter is there, with or without a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some()
    }

    /// The first value of this name, which must be text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        let text = self.bytes(name).map(std::str::from_utf8).transpose();
        text.map_err(|_| Failure::bad_request(format!("{name} is not text")))
    }

    /// The key of this name; empty without it.
    pub(super) fn key(&self, name: &str) -> Result<Bytes, Failure> {
        self.formatted(self.bytes(name).unwrap_or_default().to_vec())
    }

    /// From one key to another.
    pub(super) fn range(&self, start: &str, end: &str) -> Result<KeyRange, Failure> {
        Ok(KeyRange::from_wire(self.key(start)?, self.key(end)?))
    }

    /// How many are wanted; `None` for all, which 0 and less stand for.
    pub(super) fn limit(&self, default: usize) -> Result<Option<usize>, Failure> {
        let Some(text) = self.text("limit")?.filter(|text| !text.is_empty()) else {
            return Ok(Some(default));
        };
        let limit = text.parse::<i64>();
        let limit =
            limit.map_err(|_| Failure::bad_request(format!("limit {text:?} is not a number")))?;
        Ok(usize::try_from(limit).ok().filter(|limit| *limit > 0))
    }

    /// Reads the digits, if keys come as such.
    fn formatted(&self, key: Vec<u8>) -> Result<Bytes, Failure> {
        if self.bytes("format") != Some(b"hex") {
            return Ok(key.into());
        }
        hex(&String::from_utf8_lossy(&key))
    }
}

/// A key in hexadecimal digits.
pub(super) fn hex(text: &str) -> Result<Bytes, Failure> {
    let bytes = format::parse_hex(text).map(Bytes::from);
    bytes.ok_or_else(|| Failure::bad_request(format!("{text} is not in hex format")))
}

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::read(parts.uri.query().unwrap_or_default())
    }
}

/// The key at the end of a path.
#[derive(Debug)]
pub(super) struct KeyInPath(pub(super) Bytes);

impl KeyInPath {
    fn read(uri: &Uri) -> Result<Self, Failure> {
        let last = uri.path().rsplit('/').next().unwrap_or_default();
        let parameters = Parameters::read(uri.query().unwrap_or_default())?;
        Ok(Self(parameters.formatted(decode(last)?)?))
    }
}

impl<S: Sync> FromRequestParts<S> for KeyInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::read(&parts.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_decoded_and_a_plus_is_a_space() {
        let cases: [(&str, &[u8]); 6] = [
            ("", b""),
            ("abc", b"abc"),
            ("t%80%00%ff%FF", b"t\x80\0\xff\xff"),
            ("a+b%20c%2B", b"a b c+"),
            ("%2F%25", b"/%"),
            ("\u{e4}", "\u{e4}".as_bytes()),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text).unwrap(), expected, "{text}");
        }
        for bad in ["%", "%4", "a%zz", "%+1", "%\u{e4}"] {
            assert!(decode(bad).unwrap_err().1.contains("percent-encoded"), "{bad}");
        }
    }

    #[test]
    fn parameters_are_found_by_name() {
        let read = |query: &str| Parameters::read(query).unwrap();
        let parameters = read("key=%FFa&&end_key=b+c&count&limit=3&key=second");
        assert_eq!(
            parameters.range("key", "end_key").unwrap(),
            KeyRange::from_wire(b"\xffa".as_slice(), b"b c".as_slice())
        );
        assert!(parameters.has("count") && !parameters.has("format"));
        assert_eq!(parameters.limit(16).unwrap(), Some(3));
        assert!(parameters.text("key").unwrap_err().1.contains("key is not text"));
        let hexadecimal = read("key=74fF&format=hex");
        assert_eq!(hexadecimal.key("key").unwrap(), &b"\x74\xff"[..]);
        assert_eq!(hexadecimal.key("end_key").unwrap(), "");
        assert!(read("key=7&format=hex").key("key").is_err());
        for (query, limit) in
            [("", Some(16)), ("limit=", Some(16)), ("limit=0", None), ("limit=-1", None)]
        {
            assert_eq!(read(query).limit(16).unwrap(), limit, "{query}");
        }
        assert!(read("limit=many").limit(16).is_err());
        assert!(Parameters::read("key=%f").is_err());
    }

    #[test]
    fn the_last_part_of_a_path_is_a_key() {
        let read = |uri: &str| KeyInPath::read(&uri.parse().unwrap()).map(|key| key.0);
        assert_eq!(read("/region/key/t%80%2F%FF+").unwrap(), &b"t\x80/\xff "[..]);
        assert_eq!(read("/region/key/7480?format=hex").unwrap(), &b"t\x80"[..]);
        assert!(read("/region/key/74g0?format=hex").is_err());
    }
}
