//! Images: built or pulled on one node, copied to the others.

use std::collections::BTreeSet;

use super::{Gate, Planning, Spot};
use crate::model::{ImageSource, NodeName, Subject};
use crate::reconcile::declared::listed_name;
use crate::reconcile::step::{Action, Held, HeldBy, Reason};

impl<'a> Planning<'a> {
    /// Opens when `node` has the image that `service` runs.
    pub(super) fn service_image(&mut self, spot: Spot<'a>) -> Gate {
        let Spot { node, service, .. } = spot;
        let name = &service.spec.name;
        let needed_by = &Subject::Service(name.clone());
        match &service.spec.source {
            ImageSource::Image(_) => self.named_image(node, &service.image, needed_by),
            ImageSource::Build(source) => {
                let image = service.image.clone();
                if let Some(gate) = self.image_at_hand(node, &image, needed_by) {
                    return gate;
                }
                if let Some(gate) = self.cannot_be_built(node, &image, needed_by) {
                    return gate;
                }
                let mut needs = BTreeSet::new();
                for base in &source.bases {
                    match self.named_image(node, &listed_name(base), needed_by) {
                        Gate::Open => {}
                        Gate::After(step) => {
                            needs.insert(step);
                        }
                        shut @ Gate::Shut { .. } => return self.remember(node, image, shut),
                    }
                }
                self.first(
                    Action::BuildImage {
                        image: image.clone(),
                        service: name.clone(),
                        node: node.clone(),
                    },
                    &image,
                    needed_by,
                    needs,
                    "no node has it, so it is built here",
                )
            }
        }
    }

    /// The gate of an image whose build fails whichever node it is tried on.
    fn cannot_be_built(
        &mut self,
        node: &NodeName,
        image: &str,
        needed_by: &Subject,
    ) -> Option<Gate> {
        let of_image = format!("/image/{image}");
        let mut failures = self.history.failures.iter();
        let (_, failure) =
            failures.find(|(id, f)| f.again_at.is_none() && id.0.ends_with(&of_image))?;
        let by = HeldBy::Failed {
            why: failure.why.clone(),
        };
        let held = Held::new(needed_by.clone(), by.clone());
        if !self.plan.held.contains(&held) {
            self.plan.held.push(held);
        }
        let settled = true;
        Some(self.remember(node, image.to_owned(), Gate::Shut { by, settled }))
    }

    /// Opens when `node` has an image that somebody else made.
    fn named_image(&mut self, node: &NodeName, image: &str, needed_by: &Subject) -> Gate {
        if let Some(gate) = self.image_at_hand(node, image, needed_by) {
            return gate;
        }
        self.first(
            Action::PullImage {
                image: image.to_owned(),
                node: node.clone(),
            },
            image,
            needed_by,
            BTreeSet::new(),
            "no node has it, so it is pulled here",
        )
    }

    /// The gate of an image that need not be made: it is on the node, on another one, or on
    /// its way to one.
    pub(super) fn image_at_hand(
        &mut self,
        node: &NodeName,
        image: &str,
        needed_by: &Subject,
    ) -> Option<Gate> {
        let known = self.image_gates.get(node).and_then(|of| of.get(image));
        if let Some(gate) = known {
            return Some(gate.clone());
        }
        let holders = self.holders.get(image);
        if holders.is_some_and(|h| h.binary_search(&node).is_ok()) {
            return Some(Gate::Open);
        }
        let mut needs = BTreeSet::new();
        match self.node_gates.get(node) {
            Some(Gate::Open) => {}
            Some(Gate::After(step)) => {
                needs.insert(step.clone());
            }
            Some(Gate::Shut { settled, .. }) => {
                return Some(Gate::Shut {
                    by: HeldBy::Node { node: node.clone() },
                    settled: *settled,
                });
            }
            None => {
                return Some(Gate::Shut {
                    by: HeldBy::Node { node: node.clone() },
                    settled: true,
                });
            }
        }
        let answers = |node: &&&NodeName| {
            let view = self.observed.nodes.get(**node);
            view.is_some_and(|view| view.silence.is_none())
        };
        let from = holders.and_then(|h| h.iter().find(answers)).copied();
        if from.is_none() && holders.is_some() {
            // Whoever has it does not answer just now.
            let by = HeldBy::Image {
                image: image.to_owned(),
            };
            return Some(Gate::Shut { by, settled: false });
        }
        let (from, way) = if let Some(from) = from.cloned() {
            (from, "another node has it, so it is copied")
        } else {
            let (from, origin) = self.image_origins.get(image)?;
            needs.insert(origin.clone());
            (
                from.clone(),
                "another node is about to have it, so it is copied",
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
                way: way.to_owned(),
            },
        );
        Some(self.remember(node, image.to_owned(), gate))
    }

    /// Brings an image to its first node.
    fn first(
        &mut self,
        action: Action,
        image: &str,
        needed_by: &Subject,
        mut needs: BTreeSet<crate::reconcile::step::StepId>,
        way: &str,
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
                way: way.to_owned(),
            },
        );
        if let Gate::After(step) = &gate {
            self.image_origins
                .insert(image.to_owned(), (node.clone(), step.clone()));
        }
        self.remember(&node, image.to_owned(), gate)
    }

    fn remember(&mut self, node: &NodeName, image: String, gate: Gate) -> Gate {
        let gate = match gate {
            // A final failure is the reason for every step that needs the image.
            shut @ Gate::Shut {
                by: HeldBy::Failed { .. },
                ..
            } => shut,
            // The step's own subject is held already; what waits for it says for what.
            Gate::Shut { settled, .. } => Gate::Shut {
                by: HeldBy::Image {
                    image: image.clone(),
                },
                settled,
            },
            open => open,
        };
        let of_node = self.image_gates.entry(node.clone()).or_default();
        of_node.insert(image, gate.clone());
        gate
    }
}
