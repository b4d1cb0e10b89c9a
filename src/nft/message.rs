//! Netlink messages of nf_tables, as bytes: written, and read with nothing taken for granted.

use super::expression::Expression;
use super::rules::{Chain, Rule, TABLE, Table};

const HEADER: usize = 16;
const FAMILY_INET: u8 = 1;
const SUBSYSTEM: u16 = 10;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// What a message does, and what an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
}

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// The whole list.
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// In an answer: the tables changed while the list was read.
const INTERRUPTED: u16 = 0x10;

const ERROR: u16 = 2;
const DONE: u16 = 3;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;

const NESTED: u16 = 0x8000;
/// Without the marks for nesting and byte order.
const KIND_MASK: u16 = 0x3fff;

// ---- attributes ----

/// Attributes that are being written.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// As they go out.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds one; values are padded to whole words.
    pub(super) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        // Nothing here is near 64 KiB: lists are bounded before they become rules.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number; nf_tables wants them in network order.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a name.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.put(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds attributes inside one.
    pub(super) fn nest(self, kind: u16, inside: Self) -> Self {
        self.put(kind | NESTED, &inside.0)
    }
}

/// Attributes that were read. A wrong length ends them, so that what is missing is missed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read<'a>(pub(super) &'a [u8]);

impl<'a> Read<'a> {
    /// All of them, in order.
    pub(super) fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
            let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & KIND_MASK;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of one.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.all().find(|(of, _)| *of == kind).map(|(_, value)| value)
    }

    /// The attributes inside one.
    pub(super) fn nest(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Read)
    }

    /// A number.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A name.
    pub(super) fn text(self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(kind)?.strip_suffix(&[0])?).ok()
    }
}

// ---- messages to the kernel ----

fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &Attributes) -> Vec<u8> {
    let length = u32::try_from(HEADER + 4 + attributes.0.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(&attributes.0);
    bytes
}

fn command(verb: Verb, flags: u16, sequence: u32, attributes: &Attributes) -> Vec<u8> {
    message(SUBSYSTEM << 8 | verb as u16, REQUEST | flags, sequence, FAMILY_INET, 0, attributes)
}

/// Messages that are carried out all or none.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// For one send.
    pub(super) bytes: Vec<u8>,
    /// What each message does, for an error; its sequence number is its place, the first being 1. 0 is the whole.
    pub(super) tells: Vec<String>,
}

impl Batch {
    /// The sequence number of the last message: its result comes last.
    pub(super) fn last(&self) -> u32 {
        u32::try_from(self.tells.len()).unwrap_or(u32::MAX)
    }

    fn push(&mut self, verb: Verb, flags: u16, attributes: &Attributes, tells: String) {
        self.tells.push(tells);
        let sequence = self.last();
        self.bytes.extend(command(verb, flags, sequence, attributes));
    }
}

/// Puts this table in the place of any other of its name.
pub(super) fn replace(table: &Table) -> Batch {
    let name = Attributes::default().text(TABLE_NAME, TABLE);
    let begin = |kind| message(kind, REQUEST, 0, 0, SUBSYSTEM, &Attributes::default());
    let mut batch = Batch { bytes: begin(BATCH_BEGIN), tells: Vec::new() };
    // It is made first, so that there is one to delete; then anew.
    batch.push(Verb::NewTable, CREATE, &name, format!("table inet {TABLE}"));
    batch.push(Verb::DeleteTable, 0, &name, format!("the former table inet {TABLE}"));
    batch.push(Verb::NewTable, CREATE, &name, format!("table inet {TABLE}"));
    for chain in &table.0 {
        batch.push(Verb::NewChain, CREATE, &chain_attributes(chain), format!("chain {}", chain.name));
    }
    for chain in &table.0 {
        for rule in &chain.rules {
            let tells = format!("chain {}: {rule}", chain.name);
            batch.push(Verb::NewRule, CREATE | APPEND, &rule_attributes(chain, rule), tells);
        }
    }
    // Failures are told anyway, in order. A result for each message would not go into the socket's buffer.
    batch.push(Verb::NewTable, ACKNOWLEDGE, &name, format!("table inet {TABLE}"));
    batch.bytes.extend(begin(BATCH_END));
    batch
}

fn chain_attributes(chain: &Chain) -> Attributes {
    let hook =
        Attributes::default().number(HOOK_NUMBER, chain.hook as u32).put(HOOK_PRIORITY, &chain.priority.to_be_bytes());
    Attributes::default()
        .text(CHAIN_TABLE, TABLE)
        .text(CHAIN_NAME, chain.name)
        .nest(CHAIN_HOOK, hook)
        .number(CHAIN_POLICY, u32::from(chain.accepts))
        .text(CHAIN_TYPE, chain.kind.as_str())
}

fn rule_attributes(chain: &Chain, rule: &Rule) -> Attributes {
    let list = Expression::of(rule)
        .iter()
        .fold(Attributes::default(), |list, expression| list.nest(LIST_ELEMENT, expression.attributes()));
    Attributes::default().text(RULE_TABLE, TABLE).text(RULE_CHAIN, chain.name).nest(RULE_EXPRESSIONS, list)
}

/// Asks for the table.
pub(super) fn get_table() -> Vec<u8> {
    command(Verb::GetTable, 0, 0, &Attributes::default().text(TABLE_NAME, TABLE))
}

/// Asks for the chains of all tables, or for the rules of this one: older kernels filter chains by nothing.
pub(super) fn list(verb: Verb) -> Vec<u8> {
    let attributes = match verb {
        Verb::GetRule => Attributes::default().text(RULE_TABLE, TABLE),
        _ => Attributes::default(),
    };
    command(verb, DUMP, 0, &attributes)
}

// ---- messages from the kernel ----

/// One message of an answer.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    /// A list is at its end.
    Done,
    /// The message with this sequence number was carried out (0), or was not, by this error number.
    Result(u32, i32),
    /// The attributes of an object.
    Object(Read<'a>),
    /// The list that this is a part of was changed while it was read.
    Interrupted,
}

/// Reads a datagram. `None` where it is cut off or makes no sense.
pub(super) fn answers(mut bytes: &[u8]) -> Option<Vec<Answer<'_>>> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let message = bytes.get(..length)?;
        let (header, body) = message.split_at_checked(HEADER)?;
        let kind = u16::from_ne_bytes(*header.get(4..)?.first_chunk()?);
        let flags = u16::from_ne_bytes(*header.get(6..)?.first_chunk()?);
        // On a result the same bit has another meaning.
        if flags & INTERRUPTED != 0 && kind != ERROR {
            answers.push(Answer::Interrupted);
        }
        answers.push(match kind {
            DONE => Answer::Done,
            ERROR => {
                // The error number, and behind it the header of the message it is about.
                let code = i32::from_ne_bytes(*body.first_chunk()?);
                let sequence = u32::from_ne_bytes(*body.get(4 + 8..)?.first_chunk()?);
                Answer::Result(sequence, code.checked_neg()?)
            }
            _ => Answer::Object(Read(body.get(4..)?)),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(answers)
}

/// Whether the table is in force, from its attributes.
pub(super) fn is_awake(table: Read<'_>) -> bool {
    table.number(TABLE_FLAGS) == Some(0)
}

/// What a chain of our table is called and what of it counts; `None` for other tables' chains.
pub(super) fn chain(read: Read<'_>) -> Option<(String, ChainHead)> {
    if read.text(CHAIN_TABLE) != Some(TABLE) {
        return None;
    }
    let hook = read.nest(CHAIN_HOOK);
    let head = ChainHead {
        kind: read.text(CHAIN_TYPE).unwrap_or_default().to_owned(),
        hook: hook.and_then(|hook| hook.number(HOOK_NUMBER)),
        priority: hook.and_then(|hook| hook.number(HOOK_PRIORITY)),
        policy: read.number(CHAIN_POLICY),
    };
    Some((read.text(CHAIN_NAME).unwrap_or_default().to_owned(), head))
}

/// A chain without its rules.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChainHead {
    kind: String,
    hook: Option<u32>,
    priority: Option<u32>,
    policy: Option<u32>,
}

impl ChainHead {
    /// That of a chain of ours.
    pub(super) fn of(chain: &Chain) -> Self {
        Self {
            kind: chain.kind.as_str().to_owned(),
            hook: Some(chain.hook as u32),
            priority: Some(u32::from_ne_bytes(chain.priority.to_ne_bytes())),
            policy: Some(u32::from(chain.accepts)),
        }
    }
}

/// A rule of our table: its chain and its expressions, `None` among them for one that we never write.
pub(super) fn rule(read: Read<'_>) -> Option<(String, Vec<Option<Expression>>)> {
    if read.text(RULE_TABLE) != Some(TABLE) {
        return None;
    }
    let list = read.nest(RULE_EXPRESSIONS).unwrap_or(Read(&[]));
    let expressions = list.all().map(|(_, one)| Expression::read(Read(one))).collect();
    Some((read.text(RULE_CHAIN).unwrap_or_default().to_owned(), expressions))
}
