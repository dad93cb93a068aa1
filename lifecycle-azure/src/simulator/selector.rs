//! Selects requests by their method and by parts of their path.

use axum::http::Method;

/// Selects requests. The default selects every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    method: Option<Method>,
    path_part: Option<String>,
    path_end: Option<String>,
}

impl Selector {
    /// Selects every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Selects requests with this method.
    pub fn method(method: Method) -> Self {
        Self {
            method: Some(method),
            ..Self::default()
        }
    }

    /// Restricts the selection to paths that contain `part`, ignoring case.
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        self.path_part = Some(part.to_lowercase());
        self
    }

    /// Restricts the selection to paths that end with `end`, ignoring case. For example, this
    /// selects requests to a VM itself, but not to the VM's actions.
    #[must_use]
    pub fn path_end(mut self, end: &str) -> Self {
        self.path_end = Some(end.to_lowercase());
        self
    }

    /// Returns whether a request with this method and path is selected.
    pub fn selects(&self, method: &Method, path: &str) -> bool {
        let path = path.to_lowercase();
        self.method
            .as_ref()
            .is_none_or(|expected| expected == method)
            && self
                .path_part
                .as_ref()
                .is_none_or(|part| path.contains(part))
            && self.path_end.as_ref().is_none_or(|end| path.ends_with(end))
    }
}
