//! JSON Patch (RFC 6902) over an object that is otherwise left as it is, with whatever fields it
//! has that this program does not know.
//!
//! Only `add` is needed: it inserts into lists, and on a member that is there it replaces.

use serde::Serialize;
use serde_json::Value;

/// A place in a document (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Pointer(String);

impl Pointer {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// A member below this place.
    pub fn member(&self, name: &str) -> Self {
        Self(format!("{}/{}", self.0, name.replace('~', "~0").replace('/', "~1")))
    }

    /// The element of a list at this place.
    pub fn element(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }

    /// Behind the last element of a list at this place.
    pub fn end(&self) -> Self {
        Self(format!("{}/-", self.0))
    }

    /// As it stands in a patch.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its steps, unescaped.
    pub fn steps(&self) -> impl Iterator<Item = String> {
        self.0.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"))
    }
}

/// One operation: `value` is put at `path`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    op: &'static str,
    /// Where.
    pub path: Pointer,
    /// What.
    pub value: Value,
}

/// Operations in the order in which they are to be applied.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Patch(Vec<Operation>);

impl Patch {
    /// Puts `value` at `path`. Everything above it must be there by then.
    pub fn add(&mut self, path: Pointer, value: Value) {
        self.0.push(Operation { op: "add", path, value });
    }

    /// The operations.
    pub fn operations(&self) -> &[Operation] {
        &self.0
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_escape_what_separates_them() {
        let labels = Pointer::root().member("metadata").member("labels");
        assert_eq!(labels.member("postern.dev/a~b").as_str(), "/metadata/labels/postern.dev~1a~0b");
        assert_eq!(labels.member("a/b~1").steps().last().unwrap(), "a/b~1");
        assert_eq!(Pointer::root().member("l").element(2).member("e").end().as_str(), "/l/2/e/-");
    }

    #[test]
    fn a_patch_is_written_as_the_rfc_has_it() {
        let mut patch = Patch::default();
        patch.add(Pointer::root().member("a"), json!({"b": 1}));
        let text = serde_json::to_value(&patch).unwrap();
        assert_eq!(text, json!([{"op": "add", "path": "/a", "value": {"b": 1}}]));
    }
}
