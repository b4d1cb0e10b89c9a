//! From the keys of a Secret to the one value that a credential is.

use std::borrow::Borrow;

use super::binding::Material;
use super::name::DataKey;
use super::secret::{SecretBytes, SecretFault, SecretValue};

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable<E> {
    /// The key cannot be had.
    Source(E),
    /// It breaks a rule.
    Invalid(DataKey, SecretFault),
}

/// Builds the value from what `read` finds behind a key of the Secret. For `Basic`: user, colon, password.
pub fn value<B, E>(
    material: &Material,
    mut read: impl FnMut(&DataKey) -> Result<B, E>,
) -> Result<SecretValue, Unusable<E>>
where
    B: Borrow<SecretBytes>,
{
    let mut bytes = |key: &DataKey| read(key).map_err(Unusable::Source);
    let invalid = |key: &DataKey| {
        let key = key.clone();
        |fault| Unusable::Invalid(key, fault)
    };
    match material {
        Material::Token { secret, .. } => bytes(&secret.key)?.borrow().value().map_err(invalid(&secret.key)),
        Material::Basic { username, password, .. } => {
            let user = bytes(username)?;
            user.borrow().check_user().map_err(invalid(username))?;
            user.borrow().pair(bytes(password)?.borrow()).map_err(invalid(password))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::binding::Format;
    use super::super::name::{DataRef, ObjectName};
    use super::*;

    fn key(text: &str) -> DataKey {
        DataKey::parse(text).unwrap()
    }

    /// What comes of a Secret with the keys `u` and `p`.
    fn built(basic: bool, u: Option<&str>, p: Option<&str>) -> Result<String, Unusable<()>> {
        let secret = ObjectName::parse("s").unwrap();
        let material = if basic {
            Material::Basic { secret, username: key("u"), password: key("p") }
        } else {
            let secret = DataRef { name: secret, key: key("p") };
            Material::Token { secret, format: Format::parse("Bearer {token}").unwrap() }
        };
        let found = |name: &DataKey| if name.as_str() == "u" { u } else { p };
        let read = |name: &DataKey| found(name).map(|text| SecretBytes::new(text.into())).ok_or(());
        #[expect(clippy::disallowed_methods, reason = "a test looks at what was built")]
        value(&material, read).map(|value| String::from_utf8(value.expose().to_vec()).unwrap())
    }

    #[test]
    fn values_are_built_or_the_key_is_named() {
        let invalid = |name: &str, fault| Err(Unusable::Invalid(key(name), fault));
        let rows = [
            (false, None, Some("t0ken"), Ok("t0ken".to_owned())),
            (false, Some("u"), None, Err(Unusable::Source(()))),
            (false, None, Some("t0ken\n"), invalid("p", SecretFault::TrailingNewline)),
            (true, Some("me"), Some("pass:word"), Ok("me:pass:word".to_owned())),
            (true, Some("me"), Some(""), Ok("me:".to_owned())),
            (true, Some("me"), Some(" x"), Ok("me: x".to_owned())),
            (true, Some(""), Some("x"), invalid("u", SecretFault::Empty)),
            (true, Some("a:b"), Some("x"), invalid("u", SecretFault::Colon)),
            (true, Some("me\n"), Some("x"), invalid("u", SecretFault::TrailingNewline)),
            (true, Some("me"), Some("x\n"), invalid("p", SecretFault::TrailingNewline)),
            (true, None, Some("x"), Err(Unusable::Source(()))),
            (true, Some("me"), None, Err(Unusable::Source(()))),
        ];
        for (basic, u, p, expected) in rows {
            assert_eq!(built(basic, u, p), expected, "{basic} {u:?} {p:?}");
        }
    }
}
