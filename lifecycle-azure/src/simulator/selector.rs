//! Which requests are meant: by method and by a part of the path.

use axum::http::Method;

/// Selects requests. Empty, it selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    method: Option<Method>,
    path_part: Option<String>,
    path_end: Option<String>,
}

impl Selector {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests with this method.
    pub fn method(method: Method) -> Self {
        Self {
            method: Some(method),
            ..Self::default()
        }
    }

    /// Of these, those whose path has `part` in it, whichever way it is capitalised.
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        self.path_part = Some(part.to_lowercase());
        self
    }

    /// Of these, those whose path ends with `end`, whichever way it is capitalised: so a VM
    /// itself, and not its actions.
    #[must_use]
    pub fn path_end(mut self, end: &str) -> Self {
        self.path_end = Some(end.to_lowercase());
        self
    }

    /// Whether a request with this method and path is meant.
    pub fn selects(&self, method: &Method, path: &str) -> bool {
        let path = path.to_lowercase();
        self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self
                .path_part
                .as_ref()
                .is_none_or(|part| path.contains(part))
            && self.path_end.as_ref().is_none_or(|end| path.ends_with(end))
    }
}
