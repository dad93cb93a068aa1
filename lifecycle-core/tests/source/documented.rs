//! Checks that public items have documentation. Fields and variants with self-explanatory names
//! need none. This is why rustc's lint `missing_docs`, which also covers fields and variants, is
//! off.

use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, Item, ItemImpl, ItemTrait, TraitItem, Visibility};

use crate::layers::is_test;
use crate::{files_below, is_rust, root};

/// Private modules whose items are public only because sea-orm's derives require this.
const ENTITIES: &str = "lifecycle-core/src/registry/sql/entity";

#[test]
fn public_items_are_documented() {
    let mut missing = Vec::new();
    for library in ["lifecycle-core", "lifecycle-azure", "lifecycle-docker"] {
        let files = files_below(&root().join(library).join("src"));
        let documented = |path: &Path| is_rust(path) && !path.starts_with(root().join(ENTITIES));
        for path in files.into_iter().filter(|path| documented(path)) {
            let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            let mut reader = Reader {
                path: path.strip_prefix(root()).unwrap(),
                missing: &mut missing,
            };
            reader.visit_file(&file);
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

struct Reader<'a> {
    path: &'a Path,
    missing: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn require(&mut self, attributes: &[Attribute], name: &dyn ToString) {
        if !attributes.iter().any(|one| one.path().is_ident("doc")) {
            let line = format!(
                "{}: {} has no documentation",
                self.path.display(),
                name.to_string()
            );
            self.missing.push(line);
        }
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, visibility, name) = match item {
            Item::Const(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Enum(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Fn(item) => (&item.attrs, &item.vis, &item.sig.ident),
            Item::Struct(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Trait(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Type(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Mod(item) if is_test(&item.attrs) => return,
            _ => return visit::visit_item(self, item),
        };
        if is_public(visibility) {
            self.require(attributes, name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if item.trait_.is_none() {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if is_public(&item.vis) {
            self.require(&item.attrs, &item.sig.ident);
        }
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        if !is_public(&item.vis) {
            return;
        }
        for member in &item.items {
            if let TraitItem::Fn(function) = member {
                self.require(&function.attrs, &function.sig.ident);
            }
        }
    }
}
