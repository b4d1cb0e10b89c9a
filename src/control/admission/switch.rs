//! Whether a pod gets a sidecar: the namespace's label and the pod's own switch.

use super::reason::{AdmissionReason, Fault, Unchanged};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// Inject.
    On,
    /// Do not; a warning says so where the pod asked for it.
    Off { why: Unchanged, asked: bool },
}

/// What a pod says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PodSwitch<'a> {
    /// Its label: this is what counts.
    pub(super) label: Option<&'a str>,
    /// Its annotation: counts where there is no label.
    pub(super) annotation: Option<&'a str>,
}

impl PodSwitch<'_> {
    /// Whether the two say different things.
    pub(super) fn differ(self) -> bool {
        matches!((self.label, self.annotation), (Some(label), Some(annotation)) if label != annotation)
    }

    fn value(self) -> Result<Option<bool>, Fault> {
        let kind = if self.label.is_some() { "label" } else { "annotation" };
        match self.label.or(self.annotation) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(&format!("the pod's {kind}"))),
        }
    }
}

fn bad(whose: &str) -> Fault {
    Fault::new(AdmissionReason::BadSwitch, format!("{whose} postern.dev/inject has another value than it may have"))
}

/// Decides by the label of the namespace and the pod's switch.
pub(super) fn decide(namespace: Option<&str>, pod: PodSwitch<'_>) -> Result<Switch, Fault> {
    let off = |why, asked| Ok(Switch::Off { why, asked });
    match (namespace, pod.value()) {
        // An administrator's way out must not depend on what a pod says.
        (Some("disabled"), value) => off(Unchanged::NamespaceDisabled, matches!(value, Ok(Some(true)) | Err(_))),
        (None | Some("enabled" | "enforce"), Err(fault)) => Err(fault),
        (Some("enforce"), Ok(Some(false))) => {
            Err(Fault::new(AdmissionReason::OptOutForbidden, "postern.dev/inject on the pod is \"false\""))
        }
        (None | Some("enabled"), Ok(Some(false))) => off(Unchanged::OptedOut, false),
        (None, Ok(None)) => off(Unchanged::NotAsked, false),
        (None, Ok(Some(true))) | (Some("enabled" | "enforce"), Ok(_)) => Ok(Switch::On),
        (Some(_), _) => Err(bad("the namespace's label")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: the pod's label and annotation. Columns: the namespace without a label, enabled,
    /// enforce, disabled. `+` injects, `-` leaves, `x` refuses.
    #[test]
    fn the_truth_table() {
        #[rustfmt::skip]
        let table: &[(Option<&str>, Option<&str>, &str)] = &[
            (None,          None,          "-++-"),
            (None,          Some("true"),  "+++-"),
            (None,          Some("false"), "--x-"),
            (None,          Some("yes"),   "xxx-"),
            (Some("true"),  None,          "+++-"),
            (Some("true"),  Some("true"),  "+++-"),
            (Some("true"),  Some("false"), "+++-"),
            (Some("true"),  Some("yes"),   "+++-"),
            (Some("false"), None,          "--x-"),
            (Some("false"), Some("true"),  "--x-"),
            (Some("false"), Some("false"), "--x-"),
            (Some("True"),  Some("true"),  "xxx-"),
            (Some(""),      None,          "xxx-"),
        ];
        for (label, annotation, expected) in table {
            let columns = [None, Some("enabled"), Some("enforce"), Some("disabled")];
            let found: String = columns
                .iter()
                .map(|namespace| match decide(*namespace, PodSwitch { label: *label, annotation: *annotation }) {
                    Ok(Switch::On) => '+',
                    Ok(Switch::Off { .. }) => '-',
                    Err(_) => 'x',
                })
                .collect();
            assert_eq!(&found, expected, "label {label:?}, annotation {annotation:?}");
        }
    }

    #[test]
    fn why_is_told() {
        let pod = |label| PodSwitch { label, annotation: None };
        let why = |namespace, label| match decide(namespace, pod(label)) {
            Ok(Switch::Off { why, asked }) => (why.as_str(), asked),
            other => panic!("{other:?}"),
        };
        assert_eq!(why(None, None), ("not_asked", false));
        assert_eq!(why(Some("enabled"), Some("false")), ("opted_out", false));
        assert_eq!(why(Some("disabled"), Some("true")), ("namespace_disabled", true));
        assert_eq!(why(Some("disabled"), None), ("namespace_disabled", false));
        let reason = |namespace, label| decide(namespace, pod(label)).unwrap_err().reason.as_str();
        assert_eq!(reason(Some("enforce"), Some("false")), "opt_out_forbidden");
        assert_eq!(reason(Some("on"), Some("true")), "bad_switch");
        assert_eq!(reason(None, Some("1")), "bad_switch");
    }
}
