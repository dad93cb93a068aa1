//! Checks the dependencies between modules: this crate's modules must form layers, and the command
//! line's files must not form a cycle.
//!
//! Reads the sources. A dependency is a `use`, a path in code, macros, or attributes, or a name
//! that `lib.rs` re-exports. Tests inside the sources do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Meta, UseTree};

use crate::{files_below, is_rust, root};

/// The modules of this crate, from the bottom up. A module may use only the modules listed before
/// it.
const LAYERS: &[(&str, &str)] = &[
    (
        "similar",
        "finds the known name that is most similar to a mistyped one",
    ),
    ("epoch", "the number that fences a previous leader"),
    ("error", "errors, and whether to retry"),
    ("secret", "values that are never shown"),
    ("clock", "time and new ids"),
    ("metrics", "what is counted and measured"),
    ("model", "nodes, services, instances, operations, events"),
    ("network", "service addresses and the agents' tables"),
    ("stream", "streams of bytes"),
    ("cloud", "trait: VMs"),
    ("runtime", "trait: one node's container engine"),
    ("host", "trait: one node's operating system"),
    ("code", "trait: the code store; packing a code base"),
    ("platform", "reading what the user declares"),
    ("registry", "trait: the manager's database"),
    ("reconcile", "observe, plan, execute, record"),
    ("manager", "requests, and the loop that serves them"),
    ("api", "wire types and client of the manager"),
    ("bootstrap", "starting and deleting a platform"),
    ("agent", "service addresses on one node"),
    ("conformance", "suites that backends pass"),
    ("sim", "a simulated world"),
    ("mock", "mocks of the traits"),
];

#[test]
fn modules_use_only_layers_below_them() {
    let source = root().join("lifecycle-core/src");
    let files = files_of(&source);
    let rank = |module: &str| LAYERS.iter().position(|(name, _)| *name == module);
    let mut wrong = BTreeSet::new();
    for file in &files {
        let Some(module) = file.module.first() else {
            continue;
        };
        let Some(own) = rank(module) else {
            wrong.insert(format!("module {module} is missing in LAYERS"));
            continue;
        };
        for used in &file.uses {
            let Some(top) = used.first().filter(|top| *top != module) else {
                continue;
            };
            match rank(top) {
                Some(other) if other < own => {}
                Some(_) => {
                    let (from, to) = (file.path.display(), used.join("::"));
                    wrong.insert(format!(
                        "{from} uses {to}, but {module} is a lower layer than {top}"
                    ));
                }
                None => {
                    let path = file.path.display();
                    wrong.insert(format!("{path} uses {top}, which is missing in LAYERS"));
                }
            }
        }
    }
    let wrong: Vec<_> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_layer_of_the_table_exists() {
    let source = root().join("lifecycle-core/src");
    let files = files_of(&source);
    let modules: BTreeSet<_> = files.iter().filter_map(|f| f.module.first()).collect();
    for (name, _) in LAYERS {
        assert!(modules.contains(&(*name).to_owned()), "no module {name}");
    }
}

#[test]
fn files_of_the_command_line_form_no_cycle() {
    let source = root().join("cli/src");
    let files = files_of(&source);
    let modules: BTreeSet<&Vec<String>> = files.iter().map(|file| &file.module).collect();
    // Returns the file's module: the longest prefix of the path that is a module with its own file.
    let file_of = |used: &Vec<String>| {
        let mut module = used.clone();
        while !modules.contains(&module) {
            module.pop()?;
        }
        Some(module)
    };
    let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for file in &files {
        let used = file.uses.iter().filter_map(file_of);
        let others = used.filter(|other| *other != file.module);
        edges.entry(file.module.clone()).or_default().extend(others);
    }
    // Repeatedly remove the modules that use none of the remaining modules. Only cycles, and the
    // modules that use them, are left.
    loop {
        let free: Vec<_> = edges
            .iter()
            .filter(|(_, used)| used.iter().all(|other| !edges.contains_key(other)))
            .map(|(module, _)| module.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        for module in free {
            edges.remove(&module);
        }
    }
    let in_cycle: Vec<String> = edges
        .iter()
        .map(|(module, used)| {
            let used = used.iter().filter(|other| edges.contains_key(*other));
            let used: Vec<_> = used.map(|other| other.join("::")).collect();
            format!("{} uses {}", module.join("::"), used.join(", "))
        })
        .collect();
    assert!(in_cycle.is_empty(), "{}", in_cycle.join("\n"));
}

/// One source file.
struct Source {
    path: PathBuf,
    /// The path of the file's module in the crate. It is empty for `lib.rs` and `main.rs`.
    module: Vec<String>,
    /// The paths within the crate that the file uses.
    uses: BTreeSet<Vec<String>>,
}

fn files_of(source: &Path) -> Vec<Source> {
    let parsed: Vec<_> = files_below(source)
        .into_iter()
        .filter(|path| is_rust(path))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let file = syn::parse_file(&text).unwrap();
            (module_of(path.strip_prefix(source).unwrap()), path, file)
        })
        .collect();
    let root = parsed.iter().find(|(module, ..)| module.is_empty());
    let exported = root.map(|(.., file)| exported(&file.items));
    let exported = exported.unwrap_or_default();
    // Skip files whose module is declared with `#[cfg(test)]`.
    let tests: BTreeSet<Vec<String>> = parsed
        .iter()
        .flat_map(|(module, _, file)| test_modules(module, &file.items))
        .collect();
    parsed
        .into_iter()
        .filter(|(module, ..)| !tests.iter().any(|test| module.starts_with(test)))
        .map(|(module, path, file)| {
            let mut reader = Reader {
                module: module.clone(),
                uses: BTreeSet::new(),
            };
            reader.visit_file(&file);
            let resolve = |used: Vec<String>| match exported.get(&used[0]) {
                Some(target) => [target, &used[1..]].concat(),
                None => used,
            };
            Source {
                path,
                uses: reader.uses.into_iter().map(resolve).collect(),
                module,
            }
        })
        .collect()
}

pub(crate) fn module_of(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut module: Vec<String> = path
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if let Some("mod" | "lib" | "main") = module.last().map(String::as_str) {
        module.pop();
    }
    module
}

/// Returns the modules that a file declares only for tests.
pub(crate) fn test_modules(module: &[String], items: &[Item]) -> Vec<Vec<String>> {
    let declared = items.iter().filter_map(|item| match item {
        Item::Mod(child) if is_test(&child.attrs) => {
            Some([module, &[child.ident.to_string()]].concat())
        }
        _ => None,
    });
    declared.collect()
}

/// Returns the names that `lib.rs` re-exports, with the paths of their definitions.
fn exported(items: &[Item]) -> BTreeMap<String, Vec<String>> {
    let mut names = BTreeMap::new();
    for item in items {
        if let Item::Use(item) = item {
            for path in flat(&item.tree) {
                if let Some(name) = path.last().filter(|_| path.len() > 1) {
                    names.insert(name.clone(), path.clone());
                }
            }
        }
    }
    names
}

fn flat(tree: &UseTree) -> Vec<Vec<String>> {
    match tree {
        UseTree::Path(path) => {
            let rest = flat(&path.tree).into_iter();
            rest.map(|rest| [vec![path.ident.to_string()], rest].concat())
                .collect()
        }
        UseTree::Name(name) => vec![vec![name.ident.to_string()]],
        UseTree::Rename(name) => vec![vec![name.ident.to_string()]],
        UseTree::Glob(_) => vec![Vec::new()],
        UseTree::Group(group) => group.items.iter().flat_map(flat).collect(),
    }
}

pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        _ => false,
    })
}

/// Collects the paths within the crate that a file uses.
struct Reader {
    /// The current module. It may be an inline module within the file.
    module: Vec<String>,
    uses: BTreeSet<Vec<String>>,
}

impl Reader {
    fn note(&mut self, path: &[String]) {
        let mut absolute = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => {
                    absolute.pop();
                }
                name => absolute.push(name.to_owned()),
            }
        }
        if !absolute.is_empty() {
            self.uses.insert(absolute);
        }
    }

    /// Records the paths that begin with `crate` in unparsed tokens.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Option<Vec<String>> = None;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if name == "crate" => path = Some(vec!["crate".into()]),
                TokenTree::Ident(name) => {
                    if let Some(path) = &mut path {
                        path.push(name.to_string());
                        let path = path.clone();
                        self.note(&path);
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {}
                TokenTree::Group(group) => {
                    path = None;
                    self.note_tokens(group.stream());
                }
                TokenTree::Literal(literal) => {
                    path = None;
                    let text = literal.to_string();
                    if let Some(inside) = text.trim_matches('"').strip_prefix("crate::") {
                        let rest = inside.split("::").map(str::to_owned);
                        let rest: Vec<_> = rest.collect();
                        self.note(&[vec!["crate".into()], rest].concat());
                    }
                }
                TokenTree::Punct(_) => path = None,
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if item.content.is_some() {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for path in flat(&item.tree) {
            self.note(&path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string());
        self.note(&parts.collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.note_tokens(item.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.note_tokens(list.tokens.clone());
        }
    }
}
