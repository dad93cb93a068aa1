//! Checks that adding an action needs changes in only three places: the table of facts, the
//! execution, and a planner module. No other code may match on all actions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use syn::visit::{self, Visit};
use syn::{ExprStruct, ImplItemFn, Item, ItemFn, ItemMod, PatStruct, Path};

use crate::layers::is_test;
use crate::{files_below, is_rust, root};

const TABLE: &str = "lifecycle-core/src/reconcile/step/action.rs";
const PLANNER: &str = "lifecycle-core/src/reconcile/plan/";

fn variants() -> BTreeSet<String> {
    let table = syn::parse_file(&fs::read_to_string(root().join(TABLE)).unwrap()).unwrap();
    let action = table.items.iter().find_map(|item| match item {
        Item::Enum(item) if item.ident == "Action" => Some(item),
        _ => None,
    });
    let variants = action.unwrap().variants.iter();
    variants.map(|one| one.ident.to_string()).collect()
}

/// Collects the actions on which each function matches, and the actions that the code constructs.
#[derive(Default)]
struct Reader {
    function: String,
    matched: BTreeMap<String, BTreeSet<String>>,
    built: BTreeSet<String>,
}

fn variant(path: &Path) -> Option<String> {
    let names: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
    match names.as_slice() {
        [.., of, variant] if of == "Action" || of == "Self" => Some(variant.clone()),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function = item.sig.ident.to_string();
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function = item.sig.ident.to_string();
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_pat_struct(&mut self, pattern: &'ast PatStruct) {
        let matched = self.matched.entry(self.function.clone()).or_default();
        matched.extend(variant(&pattern.path));
        visit::visit_pat_struct(self, pattern);
    }

    fn visit_expr_struct(&mut self, built: &'ast ExprStruct) {
        self.built.extend(variant(&built.path));
        visit::visit_expr_struct(self, built);
    }
}

#[test]
fn actions_are_handled_in_only_three_places() {
    let actions = variants();
    assert!(actions.len() > 1);
    let mut places = BTreeSet::new();
    let mut proposed = BTreeSet::new();
    for library in ["lifecycle-core", "lifecycle-azure", "lifecycle-docker"] {
        for path in files_below(&root().join(library).join("src")) {
            if !is_rust(&path) {
                continue;
            }
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            let mut reader = Reader::default();
            let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            reader.visit_file(&file);
            for (function, matched) in reader.matched {
                if matched.intersection(&actions).count() * 2 > actions.len() {
                    places.insert(format!("{name}: {function}"));
                }
            }
            if name.starts_with(PLANNER) {
                proposed.extend(reader.built);
            }
        }
    }
    let expected = ["lifecycle-core/src/reconcile/execute.rs: act".to_owned()];
    let expected: BTreeSet<_> = expected
        .into_iter()
        .chain([format!("{TABLE}: facts")])
        .collect();
    assert_eq!(places, expected);
    assert!(proposed.is_superset(&actions), "{proposed:?}");
}
