//! Expands `~` at the start of paths on this machine.

use std::borrow::Cow;

use super::interpolation::Lookup;

/// Replaces a leading `~` with the home directory. Other paths, such as `~user/x`, are unchanged.
pub(super) fn expanded<'p>(path: &'p str, lookup: Lookup<'_>) -> Cow<'p, str> {
    let rest = path.strip_prefix('~');
    let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let home = || lookup("HOME").filter(|home| !home.is_empty());
    match rest.and_then(|rest| Some(format!("{}{rest}", home()?))) {
        Some(expanded) => Cow::Owned(expanded),
        None => Cow::Borrowed(path),
    }
}
