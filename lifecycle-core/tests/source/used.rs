//! Checks that every symbol in the sources is used outside tests.
//!
//! Every symbol that a crate's `src` directory defines must be used outside its own definition: in
//! the `src` directory of any crate, or in `examples`. Uses in tests and benches do not count. Uses
//! inside the conformance suites count only for the suites' own symbols, because only tests call
//! the suites. The check compares names, not types: a method counts as used if any method with the
//! same name is called. A variant counts as used only if it is constructed; matching or comparing
//! is not enough.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{
    Attribute, BinOp, Expr, ExprBinary, ExprMethodCall, ExprPath, ImplItem, Item, ItemEnum, ItemFn,
    ItemImpl, ItemMod, ItemTrait, ItemUse, Lit, Meta, Pat, PatIdent, QSelf, Signature, TraitItem,
    Type, UseTree, Variant,
};

use crate::layers::{is_test, module_of, test_modules};
use crate::{files_below, is_rust, root};

/// Symbols that exist for programs outside this repository, with the reason for each group.
const PUBLIC: &[(&str, &[&str])] = &[
    (
        "variants of `Error` and wire types may get fields, so other crates use constructors",
        &[
            "lifecycle-core::api::wire::InstanceV1::new",
            "lifecycle-core::api::wire::NodeV1::new",
            "lifecycle-core::api::wire::RestartV1::replacing",
            "lifecycle-core::api::wire::ServiceV1::new",
            "lifecycle-core::error::Error::overdue",
        ],
    ),
    (
        "services of a platform connect to the replicas of others, and programs wait for the platform",
        &[
            "lifecycle-core::api::client::ApiClient::platform_is_ready",
            "lifecycle-core::api::endpoint_list::EndpointList",
            "lifecycle-core::api::endpoint_list::EndpointList::watch",
        ],
    ),
    (
        "tests of code that passes errors on, in any crate, try one error of each kind",
        &["lifecycle-core::conformance::errors::one_of_each"],
    ),
    (
        "other implementations of code stores, and their tests, must pack files in the same way",
        &["lifecycle-core::code::pack::pack"],
    ),
    (
        "tests of code that uses Azure control the simulator and check the requests that it received",
        &[
            "lifecycle-azure::simulator::AzureSimulator::budgets",
            "lifecycle-azure::simulator::AzureSimulator::faults",
            "lifecycle-azure::simulator::AzureSimulator::identity_endpoint",
            "lifecycle-azure::simulator::AzureSimulator::requests",
            "lifecycle-azure::simulator::fault::Fault::NeverEnds",
            "lifecycle-azure::simulator::fault::Fault::QuotaExceeded",
            "lifecycle-azure::simulator::fault::Fault::SlowAnswer",
            "lifecycle-azure::simulator::fault::Fault::server_busy",
            "lifecycle-azure::simulator::fault::Faults::pending",
            "lifecycle-azure::simulator::fault::When::always",
            "lifecycle-azure::simulator::fault::When::request",
            "lifecycle-azure::simulator::fault::When::times",
            "lifecycle-azure::simulator::fault::seeded::FaultRates::transient",
            "lifecycle-azure::simulator::files::FilesService::account_sas",
            "lifecycle-azure::simulator::files::FilesService::set_page",
            "lifecycle-azure::simulator::files::FilesService::share_sas",
            "lifecycle-azure::simulator::options::Delays::all",
            "lifecycle-azure::simulator::recording::Requests::too_early",
            "lifecycle-azure::simulator::recording::Requests::writes",
            "lifecycle-azure::simulator::selector::Selector::any",
            "lifecycle-azure::simulator::selector::Selector::path_end",
        ],
    ),
    (
        "tests of code that embeds the library control the simulated world and check what happened in it",
        &[
            "lifecycle-core::sim::behaviour::Behaviour::exits",
            "lifecycle-core::sim::behaviour::Behaviour::exposes",
            "lifecycle-core::sim::behaviour::Behaviour::never_ready",
            "lifecycle-core::sim::behaviour::Behaviour::ready_after",
            "lifecycle-core::sim::behaviour::Behaviour::unhealthy_after",
            "lifecycle-core::sim::behaviour::Behaviour::with_healthcheck",
            "lifecycle-core::sim::fault::Edge::After",
            "lifecycle-core::sim::fault::Faults::budget",
            "lifecycle-core::sim::fault::Faults::crash_at",
            "lifecycle-core::sim::fault::Faults::delay_tables",
            "lifecycle-core::sim::fault::Faults::destroy",
            "lifecycle-core::sim::fault::Faults::fail_next",
            "lifecycle-core::sim::fault::Faults::heal",
            "lifecycle-core::sim::fault::Faults::rates",
            "lifecycle-core::sim::fault::Faults::remove_engine",
            "lifecycle-core::sim::fault::Faults::repair",
            "lifecycle-core::sim::fault::Faults::throttle",
            "lifecycle-core::sim::managers::SimManagers::break_image",
            "lifecycle-core::sim::world::SimWorld::agent_table",
            "lifecycle-core::sim::world::SimWorld::backends",
            "lifecycle-core::sim::world::SimWorld::behave",
            "lifecycle-core::sim::world::SimWorld::calls",
            "lifecycle-core::sim::world::SimWorld::crashed",
            "lifecycle-core::sim::world::SimWorld::effects",
            "lifecycle-core::sim::world::SimWorld::expire_login",
            "lifecycle-core::sim::world::SimWorld::faults",
            "lifecycle-core::sim::world::SimWorld::installed",
            "lifecycle-core::sim::world::SimWorld::next_incarnation",
            "lifecycle-core::sim::world::SimWorld::open_connections",
            "lifecycle-core::sim::world::SimWorld::preload_image",
            "lifecycle-core::sim::world::SimWorld::require_login",
            "lifecycle-core::sim::world::SimWorld::transcript",
            "lifecycle-core::sim::world::SimWorld::violations",
        ],
    ),
];

/// The crates whose sources define symbols.
const CRATES: &[&str] = &[
    "lifecycle-core",
    "lifecycle-azure",
    "lifecycle-docker",
    "cli",
    "server",
];

/// Derives that construct variants.
const CONSTRUCTING: &[&str] = &[
    "Deserialize",
    "DeriveRelation",
    "EnumIter",
    "Parser",
    "Subcommand",
    "ValueEnum",
];

/// Names that are used by the code that serde's and sea-orm's derives generate.
const IMPLIED: &[&str] = &["Relation", "deserialize", "serialize"];

#[test]
fn no_symbol_is_used_by_tests_alone() {
    let sources = Sources::read();
    let unused: BTreeSet<String> = sources.unused().map(Definition::name).collect();
    let public: BTreeSet<String> = PUBLIC
        .iter()
        .flat_map(|(_, names)| names.iter().map(|name| (*name).to_owned()))
        .collect();
    let wrong: Vec<_> = unused.difference(&public).cloned().collect();
    let stale: Vec<_> = public.difference(&unused).cloned().collect();
    assert!(
        wrong.is_empty(),
        "not used outside tests:\n{}",
        wrong.join("\n")
    );
    assert!(
        stale.is_empty(),
        "unnecessary exceptions:\n{}",
        stale.join("\n")
    );
}

#[test]
fn the_exceptions_are_sorted_and_have_reasons() {
    for (reason, names) in PUBLIC {
        assert!(reason.len() > 20, "{reason}");
        assert!(names.is_sorted(), "{names:?}");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// A function that is not associated with a type.
    Function,
    /// An associated function without `self`.
    Associated,
    Method,
    /// A function of a trait without `self`. Calls name the implementing type instead of the trait.
    Required,
    Variant,
    /// A type, trait, constant, or static.
    Other,
}

#[derive(Debug)]
struct Definition {
    /// The crate's directory and the module, for example `lifecycle-core::registry::sql`.
    module: String,
    /// The type or trait that the symbol belongs to.
    owner: Option<String>,
    ident: String,
    sort: Sort,
    /// True if a derive constructs the variant.
    derived: bool,
}

impl Definition {
    fn name(&self) -> String {
        match &self.owner {
            Some(owner) => format!("{}::{owner}::{}", self.module, self.ident),
            None => format!("{}::{}", self.module, self.ident),
        }
    }

    fn is_suite(&self) -> bool {
        is_suite(&self.module)
    }
}

fn is_suite(module: &str) -> bool {
    module.starts_with("lifecycle-core::conformance")
}

/// The names that the sources use.
#[derive(Debug, Default)]
struct Uses {
    /// Names that refer to items.
    names: BTreeSet<String>,
    methods: BTreeSet<String>,
    /// Adjacent segments of paths, for example `Owner::member`.
    pairs: BTreeSet<(String, String)>,
    /// Like `pairs`, but without the paths in match patterns, because matching a variant does not
    /// construct it.
    constructed: BTreeSet<(String, String)>,
    /// The second segments of all pairs.
    members: BTreeSet<String>,
}

impl Uses {
    fn has(&self, definition: &Definition) -> bool {
        let Definition { owner, ident, .. } = definition;
        let pair = owner.clone().map(|owner| (owner, ident.clone()));
        let of_owner = pair.as_ref().is_some_and(|pair| self.pairs.contains(pair));
        match definition.sort {
            Sort::Function | Sort::Other => self.names.contains(ident),
            Sort::Associated => of_owner,
            Sort::Method => of_owner || self.methods.contains(ident),
            Sort::Required => self.members.contains(ident),
            Sort::Variant => {
                definition.derived || pair.is_some_and(|pair| self.constructed.contains(&pair))
            }
        }
    }
}

#[derive(Debug, Default)]
struct Sources {
    defined: Vec<Definition>,
    used: Uses,
    used_by_suites: Uses,
}

impl Sources {
    fn read() -> Self {
        let mut sources = Self::default();
        for name in CRATES {
            let source = root().join(name).join("src");
            let files: Vec<_> = files_below(&source)
                .into_iter()
                .filter(|path| is_rust(path))
                .map(|path| {
                    let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
                    (module_of(path.strip_prefix(&source).unwrap()), file)
                })
                .collect();
            let tests: Vec<Vec<String>> = files
                .iter()
                .flat_map(|(module, file)| test_modules(module, &file.items))
                .collect();
            for (module, file) in &files {
                if tests.iter().any(|test| module.starts_with(test)) {
                    continue;
                }
                let module = [&[(*name).to_owned()], &module[..]].concat().join("::");
                sources.read_file(module, file);
            }
        }
        for path in files_below(&root().join("examples")) {
            if is_rust(&path) {
                let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
                let mut reader = Reader::new(String::new());
                reader.visit_file(&file);
                reader.note_aliases();
                sources.used.add(reader.uses);
            }
        }
        sources
    }

    fn read_file(&mut self, module: String, file: &syn::File) {
        let is_suite = is_suite(&module);
        let mut reader = Reader::new(module);
        reader.visit_file(file);
        reader.note_aliases();
        self.defined.append(&mut reader.defined);
        let uses = if is_suite {
            &mut self.used_by_suites
        } else {
            &mut self.used
        };
        uses.add(reader.uses);
    }

    fn unused(&self) -> impl Iterator<Item = &Definition> {
        let is_used = |definition: &Definition| {
            self.used.has(definition)
                || (definition.is_suite() && self.used_by_suites.has(definition))
        };
        let unused = self.defined.iter();
        unused.filter(move |definition| !is_used(definition))
    }
}

impl Uses {
    fn add(&mut self, mut more: Self) {
        self.names.append(&mut more.names);
        self.methods.append(&mut more.methods);
        self.pairs.append(&mut more.pairs);
        self.constructed.append(&mut more.constructed);
        self.members.append(&mut more.members);
    }
}

/// Reads one source file.
struct Reader {
    module: String,
    defined: Vec<Definition>,
    uses: Uses,
    /// The type of the `impl` block, enum, or trait that is being read.
    owner: Option<String>,
    /// The symbols whose bodies are being read. Uses of a symbol in its own body do not count.
    within: Vec<String>,
    /// The names from `use … as …`, with the original names.
    aliases: BTreeMap<String, String>,
    in_pattern: bool,
}

impl Reader {
    fn new(module: String) -> Self {
        Self {
            module,
            defined: Vec::new(),
            uses: Uses::default(),
            owner: None,
            within: Vec::new(),
            aliases: BTreeMap::new(),
            in_pattern: false,
        }
    }

    /// For each used alias, also records the original name as used.
    fn note_aliases(&mut self) {
        for (alias, name) in &self.aliases {
            if self.uses.names.contains(alias) {
                self.uses.names.insert(name.clone());
            }
            for pairs in [&mut self.uses.pairs, &mut self.uses.constructed] {
                let its = pairs.iter().filter(|(owner, _)| owner == alias);
                let its = its.map(|(_, member)| (name.clone(), member.clone()));
                let its: Vec<_> = its.collect();
                pairs.extend(its);
            }
        }
    }

    fn define(&mut self, ident: &syn::Ident, sort: Sort, derived: bool) {
        if IMPLIED.iter().any(|implied| ident == implied) {
            return;
        }
        let owner = match sort {
            Sort::Associated | Sort::Method | Sort::Required | Sort::Variant => self.owner.clone(),
            Sort::Function | Sort::Other => None,
        };
        self.defined.push(Definition {
            module: self.module.clone(),
            owner,
            ident: ident.to_string(),
            sort,
            derived,
        });
    }

    fn define_function(&mut self, signature: &Signature) {
        let sort = match (&self.owner, signature.receiver()) {
            (None, _) => Sort::Function,
            (Some(_), None) => Sort::Associated,
            (Some(_), Some(_)) => Sort::Method,
        };
        self.define(&signature.ident, sort, false);
    }

    /// Reads the body of `name`.
    fn inside(&mut self, name: &syn::Ident, read: impl FnOnce(&mut Self)) {
        self.within.push(name.to_string());
        read(self);
        self.within.pop();
    }

    fn in_pattern(&mut self, read: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.in_pattern, true);
        read(self);
        self.in_pattern = outer;
    }

    fn owned(&mut self, owner: Option<String>, read: impl FnOnce(&mut Self)) {
        let is_named = owner.is_some();
        self.within.extend(owner.clone());
        let outer = std::mem::replace(&mut self.owner, owner);
        read(self);
        if is_named {
            self.within.pop();
        }
        self.owner = outer;
    }

    fn note_name(&mut self, name: &str) {
        if !self.within.iter().any(|own| own == name) {
            self.uses.names.insert(name.to_owned());
        }
    }

    fn note_method(&mut self, name: &str) {
        self.uses.methods.insert(name.to_owned());
    }

    fn note_path(&mut self, path: &[String]) {
        if let Some((first, rest)) = path.split_first() {
            self.note_name(first);
            self.uses.names.extend(rest.iter().cloned());
        }
        self.uses.members.extend(path.iter().skip(1).cloned());
        for pair in path.windows(2) {
            let owner = match (pair[0].as_str(), &self.owner) {
                ("Self", Some(owner)) => owner.clone(),
                _ => pair[0].clone(),
            };
            let is_own = self.owner.as_ref() == Some(&owner);
            if !(is_own && self.within.last() == Some(&pair[1])) {
                let pair = (owner, pair[1].clone());
                if !self.in_pattern {
                    self.uses.constructed.insert(pair.clone());
                }
                self.uses.pairs.insert(pair);
            }
        }
    }

    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut after_dot = false;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    let name = name.to_string();
                    if after_dot {
                        self.note_method(&name);
                    }
                    path.push(name);
                    after_dot = false;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    after_dot = false;
                    continue;
                }
                TokenTree::Punct(punct) => after_dot = punct.as_char() == '.',
                TokenTree::Group(group) => {
                    after_dot = false;
                    self.note_tokens(group.stream());
                }
                TokenTree::Literal(literal) => {
                    after_dot = false;
                    self.note_text(&literal.to_string());
                }
            }
            let path = std::mem::take(&mut path);
            self.note_path(&path);
        }
        self.note_path(&path);
    }

    /// Records the names in a string literal, which may be a path in an attribute or a format
    /// string.
    fn note_text(&mut self, text: &str) {
        let text = text.trim_matches('"');
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if !text.is_empty() && text.chars().all(is_word) {
            let path: Vec<_> = text.split("::").map(str::to_owned).collect();
            self.note_path(&path);
        }
        for argument in text.split('{').skip(1) {
            let end = argument.find(|c: char| !is_word(c) || c == ':');
            self.note_name(&argument[..end.unwrap_or(argument.len())]);
        }
    }

    fn note_imports(&mut self, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => self.note_imports(&path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_imports(tree)),
            UseTree::Rename(rename) => {
                let (name, alias) = (rename.ident.to_string(), rename.rename.to_string());
                self.aliases.insert(alias, name);
            }
            UseTree::Name(_) | UseTree::Glob(_) => {}
        }
    }
}

fn derives(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("derive") => {
            let text = list.tokens.to_string();
            let mut names = text.split(|c: char| !c.is_ascii_alphanumeric());
            names.any(|name| CONSTRUCTING.contains(&name))
        }
        _ => false,
    })
}

/// Returns whether a derive of `Default` or `From` constructs a variant.
fn is_derived(variant: &Variant) -> bool {
    let has = |attributes: &[Attribute], name| attributes.iter().any(|a| a.path().is_ident(name));
    let mut fields = variant.fields.iter();
    has(&variant.attrs, "default") || fields.any(|field| has(&field.attrs, "from"))
}

fn last_name(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|part| part.ident.to_string()),
        Type::Reference(reference) => last_name(&reference.elem),
        _ => None,
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes_of(item)) {
            return;
        }
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Type(item) => &item.ident,
            _ => return visit::visit_item(self, item),
        };
        if name != "_" {
            self.define(name, Sort::Other, false);
        }
        self.inside(name, |reader| visit::visit_item(reader, item));
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if item.sig.ident != "main" {
            let outer = self.owner.take();
            self.define_function(&item.sig);
            self.owner = outer;
        }
        self.inside(&item.sig.ident, |reader| visit::visit_item_fn(reader, item));
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.define(&item.ident, Sort::Other, false);
        let derived = derives(&item.attrs);
        self.owned(Some(item.ident.to_string()), |reader| {
            for variant in &item.variants {
                let derived = derived || is_derived(variant);
                reader.define(&variant.ident, Sort::Variant, derived);
            }
            visit::visit_item_enum(reader, item);
        });
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.define(&item.ident, Sort::Other, false);
        self.owned(Some(item.ident.to_string()), |reader| {
            for member in &item.items {
                if let TraitItem::Fn(function) = member {
                    let sort = match function.sig.receiver() {
                        Some(_) => Sort::Method,
                        None => Sort::Required,
                    };
                    reader.define(&function.sig.ident, sort, false);
                    reader.inside(&function.sig.ident, |reader| {
                        visit::visit_trait_item_fn(reader, function);
                    });
                }
            }
        });
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let Some((_, path, _)) = &item.trait_ {
            self.visit_path(path);
        }
        self.owned(last_name(&item.self_ty), |reader| {
            visit::visit_type(reader, &item.self_ty);
            visit::visit_generics(reader, &item.generics);
            for member in &item.items {
                match member {
                    ImplItem::Fn(function) if is_test(&function.attrs) => {}
                    ImplItem::Fn(function) => {
                        if item.trait_.is_none() {
                            reader.define_function(&function.sig);
                        }
                        reader.inside(&function.sig.ident, |reader| {
                            visit::visit_impl_item_fn(reader, function);
                        });
                    }
                    ImplItem::Const(constant) => {
                        if item.trait_.is_none() {
                            reader.define(&constant.ident, Sort::Associated, false);
                        }
                        reader.inside(&constant.ident, |reader| {
                            visit::visit_impl_item_const(reader, constant);
                        });
                    }
                    other => visit::visit_impl_item(reader, other),
                }
            }
        });
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let inner = format!("{}::{}", self.module, item.ident);
        let outer = std::mem::replace(&mut self.module, inner);
        visit::visit_item_mod(self, item);
        self.module = outer;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.note_imports(&item.tree);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.note_method(&call.method.to_string());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_binary(&mut self, binary: &'ast ExprBinary) {
        let compares = matches!(binary.op, BinOp::Eq(_) | BinOp::Ne(_));
        for operand in [&binary.left, &binary.right] {
            match &**operand {
                Expr::Path(path) if compares => self.in_pattern(|reader| {
                    visit::visit_expr_path(reader, path);
                }),
                other => self.visit_expr(other),
            }
        }
    }

    fn visit_expr_path(&mut self, path: &'ast ExprPath) {
        self.note_qualified(path.qself.as_ref(), &path.path);
        visit::visit_expr_path(self, path);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string());
        self.note_path(&parts.collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_pat(&mut self, pattern: &'ast Pat) {
        self.in_pattern(|reader| visit::visit_pat(reader, pattern));
    }

    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        // Record the name: it may be a constant, which looks like a new variable in a pattern.
        self.note_name(&pattern.ident.to_string());
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        let outer = std::mem::replace(&mut self.in_pattern, false);
        visit::visit_expr(self, expression);
        self.in_pattern = outer;
    }

    fn visit_lit(&mut self, literal: &'ast Lit) {
        if let Lit::Str(text) = literal {
            self.note_text(&text.value());
        }
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        let tokens = item.tokens.clone();
        if item.path.is_ident("matches") {
            self.in_pattern(|reader| reader.note_tokens(tokens));
        } else {
            self.note_tokens(tokens);
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        match &attribute.meta {
            Meta::List(list) => self.note_tokens(list.tokens.clone()),
            Meta::NameValue(pair) if !pair.path.is_ident("doc") => self.visit_expr(&pair.value),
            _ => {}
        }
    }
}

impl Reader {
    /// Records a path such as `<Type>::member`.
    fn note_qualified(&mut self, of: Option<&QSelf>, path: &syn::Path) {
        let owner = of.and_then(|of| last_name(&of.ty));
        if let (Some(owner), Some(member)) = (owner, path.segments.last()) {
            self.note_path(&[owner, member.ident.to_string()]);
        }
    }
}
