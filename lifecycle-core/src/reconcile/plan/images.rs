//! Brings images to nodes: an image is built or pulled on one node and copied to the others.

use std::collections::BTreeSet;

use super::{Blocked, Gate, PlacedReplica, Planning};
use crate::model::{BuildSource, ImageSource, NodeName, Subject};
use crate::reconcile::declared::{DeclaredService, listed_name};
use crate::reconcile::index::IndexedService;
use crate::reconcile::step::{Action, Held, HeldBy, Reason, StepId};
use crate::runtime::uncompared;

impl<'a> Planning<'a> {
    /// Returns a gate that opens when the replica's node has the image of the replica's service.
    pub(super) fn service_image(&mut self, replica: PlacedReplica<'a>) -> Gate {
        let PlacedReplica { node, service, .. } = replica;
        let name = &service.spec.name;
        let needed_by = &Subject::Service(name.clone());
        let image = &service.image;
        let source = match &service.spec.source {
            ImageSource::Image(_) => return self.named_image(node, image, needed_by),
            ImageSource::Build(source) => source,
        };
        if let Some(gate) = self.existing_image(node, image, needed_by) {
            return gate;
        }
        if let Some(gate) = self.failed_build(node, image, needed_by) {
            return gate;
        }
        let builder = self.builder(service).unwrap_or(node);
        if builder == node {
            return self.build(node, service, source);
        }
        let built = self.existing_image(builder, image, needed_by);
        let built = built.unwrap_or_else(|| self.build(builder, service, source));
        match self.existing_image(node, image, needed_by) {
            Some(gate) => gate,
            None => self.set_image_gate(node, image.clone(), built),
        }
    }

    /// Returns the node that must build an image, if there is one.
    ///
    /// This is the node that is already building the image. Otherwise, it is a usable node with a
    /// container that may have the image under another name, because only that node's engine can
    /// compare the two images. Of several such nodes, it is the manager's node, or else the first in the
    /// start order: the image was first built there, so the engine has its layers. A node on which the
    /// build failed is not used again: a comparison is worth less than the image.
    ///
    /// If there is no such container, this is the manager's node, if it needs the image: it is ready
    /// first, so a build that was interrupted by a crash of the manager is repeated where its layers
    /// are.
    fn builder(&self, service: &DeclaredService) -> Option<&'a NodeName> {
        if let Some(node) = self.history.builds.get(&service.image) {
            return Some(node);
        }
        let index = self.index;
        let mut of_image: Vec<&IndexedService<'a>> = { index.services.iter() }
            .filter(|indexed| indexed.service.image == service.image)
            .collect();
        of_image.sort_by_key(|indexed| indexed.start_rank());
        let seen = of_image.iter().flat_map(|indexed| {
            let containers = index.seen[indexed.positions()].iter().flatten();
            containers.filter(|seen| seen.may_be_current(indexed.service))
        });
        let usable = |node: &NodeName| {
            let view = self.observed.nodes.get(node);
            let build = Action::BuildImage {
                image: service.image.clone(),
                service: service.spec.name.clone(),
                node: node.clone(),
            };
            view.is_some_and(|view| view.not_responding.is_none())
                && matches!(self.node_gates.get(node), Some(Gate::Open))
                && !self.history.failures.contains_key(&build.id())
        };
        let managers = &self.declared.manager_node;
        let candidates = seen.map(|seen| seen.node).filter(|node| usable(node));
        if let Some(first) = candidates.min_by_key(|node| *node != managers) {
            return Some(first);
        }
        let mut nodes = { of_image.iter() }.flat_map(|s| &self.placement.nodes[s.positions()]);
        (nodes.any(|node| *node == Some(managers)) && usable(managers)).then_some(managers)
    }

    fn build(&mut self, node: &NodeName, service: &DeclaredService, source: &BuildSource) -> Gate {
        let name = &service.spec.name;
        let needed_by = &Subject::Service(name.clone());
        let image = &service.image;
        let mut needs = BTreeSet::new();
        for base in &source.bases {
            let base = self.named_image(node, &listed_name(base), needed_by);
            if let Err(blocked) = base.pass(&mut needs) {
                return self.set_image_gate(node, image.clone(), Gate::Blocked(blocked));
            }
        }
        let action = Action::BuildImage {
            image: image.clone(),
            service: name.clone(),
            node: node.clone(),
        };
        let how = "no node has the image, so it is built here";
        self.first_image(action, image, needed_by, needs, how)
    }

    /// Returns a blocked gate if the image's build failed for good: it would fail on other nodes
    /// too.
    fn failed_build(&mut self, node: &NodeName, image: &str, needed_by: &Subject) -> Option<Gate> {
        let mut failures = self.history.failures.iter();
        let (_, failure) =
            failures.find(|(id, f)| f.again_at.is_none() && id.image() == Some(image))?;
        let by = HeldBy::Failed {
            why: failure.why.clone(),
        };
        let held = Held::new(needed_by.clone(), by.clone());
        if !self.plan.held.contains(&held) {
            self.plan.held.push(held);
        }
        Some(self.set_image_gate(node, image.to_owned(), Gate::blocked(by, true)))
    }

    /// Returns a gate that opens when the node has an image that this platform does not build.
    fn named_image(&mut self, node: &NodeName, image: &str, needed_by: &Subject) -> Gate {
        if let Some(gate) = self.existing_image(node, image, needed_by) {
            return gate;
        }
        let action = Action::PullImage {
            image: image.to_owned(),
            node: node.clone(),
        };
        let how = "no node has the image, so it is pulled here";
        self.first_image(action, image, needed_by, BTreeSet::new(), how)
    }

    /// Returns the gate of an image that some node has or will get; `None` for any other image.
    pub(super) fn existing_image(
        &mut self,
        node: &NodeName,
        image: &str,
        needed_by: &Subject,
    ) -> Option<Gate> {
        let known = self.image_gates.get(node).and_then(|of| of.get(image));
        if let Some(gate) = known {
            return Some(gate.clone());
        }
        let holders = self.image_holders.get(image);
        if holders.is_some_and(|h| h.binary_search(&node).is_ok()) {
            return Some(Gate::Open);
        }
        let mut needs = BTreeSet::new();
        let node_gate = self.node_gates.get(node).cloned();
        let node_gate =
            node_gate.unwrap_or_else(|| Gate::blocked(HeldBy::Node { node: node.clone() }, true));
        if let Err(blocked) = node_gate.pass(&mut needs) {
            let by = HeldBy::Node { node: node.clone() };
            return Some(Gate::blocked(by, blocked.settled));
        }
        let responds = |node: &&&NodeName| {
            let view = self.observed.nodes.get(**node);
            view.is_some_and(|view| view.not_responding.is_none())
        };
        let from = holders.and_then(|h| h.iter().find(responds)).copied();
        if from.is_none() && holders.is_some() {
            // The nodes that have the image do not respond now, but may respond soon.
            let by = HeldBy::Image {
                image: image.to_owned(),
            };
            return Some(Gate::blocked(by, false));
        }
        let (from, how) = if let Some(from) = from.cloned() {
            (from, "another node has the image, so it is copied")
        } else {
            let (from, origin) = self.image_origins.get(image)?;
            needs.insert(origin.clone());
            (
                from.clone(),
                "another node will have the image soon, so it is copied",
            )
        };
        let gate = self.propose(
            Action::CopyImage {
                image: image.to_owned(),
                from,
                node: node.clone(),
            },
            needs,
            Reason::ImageAbsent {
                needed_by: needed_by.clone(),
                how: how.to_owned(),
            },
        );
        Some(self.set_image_gate(node, image.to_owned(), gate))
    }

    /// Builds or pulls an image on the first node that needs it.
    fn first_image(
        &mut self,
        action: Action,
        image: &str,
        needed_by: &Subject,
        mut needs: BTreeSet<StepId>,
        how: &str,
    ) -> Gate {
        let node = action.node().clone();
        if let Some(Gate::After(step)) = self.node_gates.get(&node) {
            needs.insert(step.clone());
        }
        let gate = self.propose(
            action,
            needs,
            Reason::ImageAbsent {
                needed_by: needed_by.clone(),
                how: how.to_owned(),
            },
        );
        if let Gate::After(step) = &gate {
            self.image_origins
                .insert(image.to_owned(), (node.clone(), step.clone()));
        }
        self.set_image_gate(&node, image.to_owned(), gate)
    }

    /// Removes the names of images that this platform built and no longer needs. Nothing waits for
    /// these steps, so nothing is held if they fail.
    pub(super) fn unneeded_images(&mut self) {
        let (declared, observed) = (self.declared, self.observed);
        let services = declared.services.values();
        let needed: BTreeSet<&str> = services.map(|service| service.image.as_str()).collect();
        let builds = self
            .plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::BuildImage { image, node, .. } => Some((node.clone(), uncompared(image))),
                _ => None,
            });
        let being_built: BTreeSet<(NodeName, String)> = builds.collect();
        for (node, view) in &observed.nodes {
            let stays = declared.nodes.contains_key(node) && !declared.deleting;
            let is_usable = view.not_responding.is_none() && (stays || !view.machine.created);
            let Some(state) = view.engine_state().filter(|_| is_usable) else {
                continue;
            };
            let used: BTreeSet<&str> = state.containers.iter().map(|c| c.image.as_str()).collect();
            // An image with a needed name keeps its contents when it loses another name.
            let named: BTreeSet<&String> = state
                .images
                .iter()
                .filter(|(name, _)| needed.contains(name.as_str()))
                .map(|(_, id)| id)
                .collect();
            for (image, id) in &state.images {
                let is_unneeded = declared.is_built_here(image)
                    && !needed.contains(image.as_str())
                    && !being_built.contains(&(node.clone(), image.clone()))
                    && (named.contains(id) || !used.contains(id.as_str()));
                if is_unneeded {
                    self.remove_image(image, node);
                }
            }
        }
    }

    fn remove_image(&mut self, image: &str, node: &NodeName) {
        let action = Action::RemoveImage {
            image: image.to_owned(),
            node: node.clone(),
        };
        if let Some(failure) = self.history.failures.get(&action.id()) {
            // A container of another owner may keep using the image. That must not delay the
            // deletion of the platform.
            let Some(at) = failure.again_at.filter(|_| !self.declared.deleting) else {
                return;
            };
            if at > self.now {
                self.changes_at(at);
                return;
            }
        }
        self.propose(action, BTreeSet::new(), Reason::ImageNotNeeded);
    }

    fn set_image_gate(&mut self, node: &NodeName, image: String, gate: Gate) -> Gate {
        let gate = match gate {
            // Name only the image as the cause: the plan already shows what holds the image's step.
            // A failure is named, because it becomes the reason why the replica failed.
            Gate::Blocked(blocked) if !is_failure(&blocked) => {
                let by = HeldBy::Image {
                    image: image.clone(),
                };
                Gate::blocked(by, blocked.settled)
            }
            gate => gate,
        };
        let of_node = self.image_gates.entry(node.clone()).or_default();
        of_node.insert(image, gate.clone());
        gate
    }
}

/// Returns whether the step that brings an image failed, and the round does not wait for another
/// attempt.
fn is_failure(blocked: &Blocked) -> bool {
    match blocked.by {
        HeldBy::Failed { .. } => true,
        HeldBy::Backoff { .. } => blocked.settled,
        _ => false,
    }
}
