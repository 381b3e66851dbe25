//! The few messages of D-Bus that systemd's manager is asked with: method calls with texts, flags, numbers and properties,
//! and whether the answer is one or an error. Nothing of the answer's body is read but an error's sentence.
//!
//! The format is that of the D-Bus specification, "Message Protocol"; every value is little-endian and lies at a multiple of
//! its size from the start of the message.

use std::io::{Error, ErrorKind, Read, Result};

/// No answer of systemd's to us is longer.
const LONGEST: u32 = 1 << 20;
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// An argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `s`
    Text(String),
    /// `b`
    Flag(bool),
    /// `t`
    Number(u64),
    /// `au`
    Processes(Vec<u32>),
    /// `a(sv)`
    Properties(Vec<(&'static str, Value)>),
    /// `a(sa(sv))` with nothing in it: units to be made along.
    NoUnits,
}

impl Value {
    const fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Flag(_) => "b",
            Self::Number(_) => "t",
            Self::Processes(_) => "au",
            Self::Properties(_) => "a(sv)",
            Self::NoUnits => "a(sa(sv))",
        }
    }
}

/// Bytes of a message from its start on.
#[derive(Default)]
struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        while self.out.len() % to != 0 {
            self.out.push(0);
        }
    }

    fn number(&mut self, value: u32) {
        self.align(4);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.out.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.out.extend_from_slice(signature.as_bytes());
        self.out.push(0);
    }

    /// An array: its length in bytes without the padding before its first element.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.out.len().saturating_sub(4);
        self.align(alignment);
        let from = self.out.len();
        elements(self);
        let bytes = length(self.out.len().saturating_sub(from));
        if let Some(place) = self.out.get_mut(at..at.saturating_add(4)) {
            place.copy_from_slice(&bytes.to_le_bytes());
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Text(text) => self.text(text),
            Value::Flag(flag) => self.number(u32::from(*flag)),
            Value::Number(number) => {
                self.align(8);
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Value::Processes(pids) => self.array(4, |writer| pids.iter().for_each(|pid| writer.number(*pid))),
            Value::Properties(properties) => self.array(8, |writer| {
                for (name, value) in properties {
                    writer.align(8);
                    writer.text(name);
                    writer.signature(value.signature());
                    writer.value(value);
                }
            }),
            Value::NoUnits => self.array(8, |_| {}),
        }
    }

    /// A field of the header: its number and a value of one of the types that fields have.
    fn field(&mut self, number: u8, signature: &str, text: &str) {
        self.align(8);
        self.out.push(number);
        self.signature(signature);
        if signature == "g" { self.signature(text) } else { self.text(text) }
    }
}

/// Whatever is longer than four gigabytes is not sent anyway.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Message {
    kind: u8,
    reply_to: Option<u32>,
    error: Option<String>,
    sentence: Option<String>,
}

impl Message {
    /// A call of a method of systemd's manager.
    pub(crate) fn call(serial: u32, method: &str, body: &[Value]) -> Vec<u8> {
        let mut content = Writer::default();
        body.iter().for_each(|value| content.value(value));
        let signature: String = body.iter().map(Value::signature).collect();
        let mut message = Writer::default();
        message.out.extend_from_slice(&[b'l', METHOD_CALL, 0, 1]);
        message.number(length(content.out.len()));
        message.number(serial);
        message.array(8, |fields| {
            fields.field(FIELD_PATH, "o", "/org/freedesktop/systemd1");
            fields.field(FIELD_INTERFACE, "s", "org.freedesktop.systemd1.Manager");
            fields.field(FIELD_MEMBER, "s", method);
            fields.field(FIELD_DESTINATION, "s", "org.freedesktop.systemd1");
            fields.field(FIELD_SIGNATURE, "g", &signature);
        });
        message.align(8);
        message.out.extend_from_slice(&content.out);
        message.out
    }

    /// Reads the next message, whatever it is.
    ///
    /// # Errors
    /// If it ends in the middle, or is not one that systemd sends.
    pub(crate) fn read(from: &mut impl Read) -> Result<Self> {
        let odd = || Error::new(ErrorKind::InvalidData, "an answer that is not D-Bus as it should be");
        let mut head = [0_u8; 16];
        from.read_exact(&mut head)?;
        let [order, kind, _, _, b0, b1, b2, b3, _, _, _, _, f0, f1, f2, f3] = head;
        let (body, fields) = (u32::from_le_bytes([b0, b1, b2, b3]), u32::from_le_bytes([f0, f1, f2, f3]));
        if order != b'l' || body > LONGEST || fields > LONGEST {
            return Err(odd());
        }
        let padded = fields.next_multiple_of(8);
        let mut header = vec![0_u8; usize::try_from(padded).map_err(|_| odd())?];
        from.read_exact(&mut header)?;
        header.truncate(usize::try_from(fields).map_err(|_| odd())?);
        let mut content = vec![0_u8; usize::try_from(body).map_err(|_| odd())?];
        from.read_exact(&mut content)?;
        let mut message = Self { kind, reply_to: None, error: None, sentence: None };
        message.read_fields(&header).ok_or_else(odd)?;
        message.sentence = Reader { bytes: &content, at: 0 }.text();
        Ok(message)
    }

    fn read_fields(&mut self, header: &[u8]) -> Option<()> {
        let mut reader = Reader { bytes: header, at: 0 };
        while reader.at < header.len() {
            reader.align(8);
            let number = reader.byte()?;
            let signature = reader.signature()?;
            match signature.as_str() {
                "u" => {
                    let value = reader.number()?;
                    if number == FIELD_REPLY_SERIAL {
                        self.reply_to = Some(value);
                    }
                }
                "s" | "o" => {
                    let value = reader.text()?;
                    if number == FIELD_ERROR_NAME {
                        self.error = Some(value);
                    }
                }
                "g" => drop(reader.signature()?),
                _ => return None,
            }
        }
        Some(())
    }

    /// Whether this answers a call, and how; `None` for signals and answers to others.
    pub(crate) fn outcome_of(&self, serial: u32) -> Option<std::result::Result<(), String>> {
        if self.reply_to != Some(serial) {
            return None;
        }
        match self.kind {
            METHOD_RETURN => Some(Ok(())),
            ERROR => {
                let name = self.error.as_deref().unwrap_or("an error without a name");
                Some(Err(self.sentence.as_deref().map_or(name.to_owned(), |why| format!("{why} ({name})"))))
            }
            _ => None,
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let from = self.at;
        self.at = from.checked_add(length)?;
        self.bytes.get(from..self.at)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call as busctl sends it: read back from a capture of its fields and body.
    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let message = Message::call(7, "Test", &[Value::Text("ab".into()), Value::Flag(true)]);
        assert_eq!(message.get(..4), Some(&[b'l', 1, 0, 1][..]));
        // "ab": 4 of length, 2, a zero; aligned to 4: the flag.
        assert_eq!(message.get(4..8), Some(&12_u32.to_le_bytes()[..]));
        assert_eq!(message.get(8..12), Some(&7_u32.to_le_bytes()[..]));
        let body = message.len() - 12;
        assert_eq!(body % 8, 0, "the body begins at a multiple of 8");
        assert_eq!(message.get(body..), Some(&[2, 0, 0, 0, b'a', b'b', 0, 0, 1, 0, 0, 0][..]));
        let fields = u32::from_le_bytes(message.get(12..16).and_then(|b| b.try_into().ok()).expect("four"));
        assert_eq!((16 + fields).next_multiple_of(8), u32::try_from(body).expect("small"));
    }

    #[test]
    fn properties_are_structures_of_a_name_and_a_variant() {
        let mut writer = Writer::default();
        writer.value(&Value::Properties(vec![("A", Value::Number(5)), ("B", Value::Processes(vec![9]))]));
        let expected = [
            &[48_u8, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 0, 0, 0, b'A', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, b'B', 0, 2, b'a', b'u', 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0],
        ]
        .concat();
        // 24 bytes, then 20.
        assert_eq!(writer.out.get(8..), expected.get(8..));
        assert_eq!(writer.out.first(), Some(&44));
    }

    fn answer(kind: u8, fields: &[(u8, &str, &str)], reply_to: u32, body: &str) -> Vec<u8> {
        let mut content = Writer::default();
        content.text(body);
        let mut message = Writer::default();
        message.out.extend_from_slice(&[b'l', kind, 1, 1]);
        message.number(length(content.out.len()));
        message.number(99);
        message.array(8, |writer| {
            writer.align(8);
            writer.out.push(FIELD_REPLY_SERIAL);
            writer.signature("u");
            writer.number(reply_to);
            fields.iter().for_each(|(number, signature, text)| writer.field(*number, signature, text));
        });
        message.align(8);
        message.out.extend_from_slice(&content.out);
        message.out
    }

    #[test]
    fn answers_are_told_apart() {
        let good = answer(METHOD_RETURN, &[(FIELD_SIGNATURE, "g", "o")], 3, "/job/1");
        let good = Message::read(&mut good.as_slice()).expect("read");
        assert_eq!(good.outcome_of(3), Some(Ok(())));
        assert_eq!(good.outcome_of(4), None);
        let fields = [(FIELD_ERROR_NAME, "s", "org.x.UnitExists"), (FIELD_SIGNATURE, "g", "s")];
        let bad = answer(ERROR, &fields, 3, "Unit a.scope already exists.");
        let bad = Message::read(&mut bad.as_slice()).expect("read");
        assert_eq!(
            bad.outcome_of(3),
            Some(Err("Unit a.scope already exists. (org.x.UnitExists)".to_owned()))
        );
        assert!(Message::read(&mut [b'B'; 16].as_slice()).is_err(), "big-endian is not what systemd sends");
        assert!(
            Message::read(&mut [b'l', 2, 1, 1, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0].as_slice())
                .is_err()
        );
    }
}
