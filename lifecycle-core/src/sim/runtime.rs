//! Implements `ContainerRuntime` for the simulation. A value represents one engine as one platform
//! sees it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::actor::{Actor, Call, Done, Target};
use super::dockerfile::{self, Dockerfile};
use super::engine::{Engine, Here, Image};
use super::exec;
use super::host::engine_info;
use super::ledger::{Ledger, Violation};
use super::options::{Latencies, Span};
use super::world::{Rules, State};
use crate::error::{Error, Result};
use crate::host::ByteStream;
use crate::model::{DEFAULT_STOP_GRACE, NodeName, VolumeName};
use crate::network::{Report, Table};
use crate::runtime::{
    BuildRequest, ContainerRuntime, ContainerSpec, EngineEvent, EngineInfo, EngineState,
    ExecCommand, ExecSession, ImageInfo, ImageLogin, ImageRegistry, LogLine, LogOptions,
    ObservedContainer, Owner, TerminalSize,
};

/// A simulated engine as one platform sees it, in one boot of its machine.
#[derive(Debug, Clone)]
pub struct SimRuntime {
    actor: Actor,
    owner: Owner,
    node: NodeName,
    machine: u64,
    boot: u64,
}

impl SimRuntime {
    pub(super) fn new(actor: Actor, owner: Owner, node: NodeName, machine: u64, boot: u64) -> Self {
        Self {
            actor,
            owner,
            node,
            machine,
            boot,
        }
    }

    fn call(&self, what: String, takes: fn(&Latencies) -> Span) -> Call {
        Call {
            target: Target::Engine {
                machine: self.machine,
                boot: self.boot,
            },
            node: Some(self.node.clone()),
            what,
            is_effect: false,
            takes: takes(&self.actor.world().lock().rules.latencies),
        }
    }

    fn effect(&self, what: String, takes: fn(&Latencies) -> Span) -> Call {
        Call {
            is_effect: true,
            ..self.call(what, takes)
        }
    }

    /// Executes a call to this engine.
    async fn at_engine<T, A>(&self, call: Call, act: A) -> Result<T>
    where
        T: Send,
        A: FnOnce(&mut Engine, Here<'_>, Instant, &Rules, &mut Ledger) -> Result<Done<T>> + Send,
    {
        let machine = self.machine;
        self.actor
            .call(call, |state, now| {
                let Some(machine) = state.machines.get_mut(&machine) else {
                    return Err(Error::not_found(format!("node {}", self.node)));
                };
                let (engine, here) = machine.engine_here();
                act(engine, here, now, &state.rules, &mut state.ledger)
            })
            .await
    }

    /// Returns the notification channel of the machine; an error if this boot is over.
    fn watch(&self) -> Result<watch::Receiver<u64>> {
        let state = self.actor.world().lock();
        let machine = state.machines.get(&self.machine);
        machine
            .filter(|machine| machine.boot == self.boot)
            .map(|machine| machine.signal.subscribe())
            .ok_or_else(|| self.unreachable())
    }

    fn unreachable(&self) -> Error {
        Error::Unreachable {
            hint: None,
            what: format!("engine of node {}", self.node),
            source: None,
        }
    }

    /// Waits until `find` finds something in the engine. Returns `Ok(None)` if `find` ends the
    /// search, or if this boot of the machine is over.
    async fn await_in_engine<T>(
        &self,
        signal: &mut watch::Receiver<u64>,
        mut find: impl FnMut(&Engine) -> Search<T> + Send,
    ) -> Result<Option<T>> {
        loop {
            self.actor.outlive().await;
            signal.borrow_and_update();
            let seen = self.search(&mut find);
            match seen {
                SearchResult::Found(found) => return Ok(Some(found)),
                SearchResult::Over => return Ok(None),
                SearchResult::Unreachable(notice) => {
                    sleep(notice).await;
                    if matches!(self.search(&mut find), SearchResult::Unreachable(_)) {
                        return Err(self.unreachable());
                    }
                }
                SearchResult::Nothing(None) => {
                    // Ignore the error: the machine was deleted, and the next search ends.
                    let _ = signal.changed().await;
                }
                SearchResult::Nothing(Some(due)) => {
                    tokio::select! {
                        biased;
                        _ = signal.changed() => {}
                        () = sleep_until(due) => {}
                    }
                }
            }
        }
    }

    fn search<T>(&self, find: &mut impl FnMut(&Engine) -> Search<T>) -> SearchResult<T> {
        let now = Instant::now();
        let mut state = self.actor.world().lock();
        let state: &mut State = &mut state;
        state.advance(self.machine, now);
        state.check(now);
        let Some(machine) = state.machines.get(&self.machine) else {
            return SearchResult::Over;
        };
        if machine.boot != self.boot || !machine.is_up() {
            return SearchResult::Over;
        }
        if !machine.is_reachable() {
            return SearchResult::Unreachable(
                state.rules.chance.paced(state.rules.latencies.notice),
            );
        }
        match find(&machine.engine) {
            Search::Found(found) => SearchResult::Found(found),
            Search::Over => SearchResult::Over,
            Search::NotYet => SearchResult::Nothing(machine.next_due()),
        }
    }
}

impl SimRuntime {
    /// Returns a receiver that is notified when the number of open connections may have changed.
    pub(super) fn connection_changes(&self) -> Result<watch::Receiver<u64>> {
        self.watch()
    }

    /// Waits until a command in a container is ended by a call.
    pub(super) async fn command_ended(&self, id: &str) -> Result<()> {
        let mut signal = self.watch()?;
        let ended = self
            .await_in_engine(&mut signal, |engine| {
                if engine.has_ended_command(id) {
                    Search::Found(())
                } else {
                    Search::NotYet
                }
            })
            .await?;
        ended.ok_or_else(|| self.unreachable())
    }

    /// Returns the reports of the agent in `container` about its draining containers. Empty while the
    /// agent cannot send reports.
    pub(super) async fn draining(&self, container: &str) -> Vec<Report> {
        self.actor.outlive().await;
        let now = Instant::now();
        let mut state = self.actor.world().lock();
        state.advance(self.machine, now);
        let machine = state.machines.get(&self.machine);
        let machine = machine.filter(|m| m.boot == self.boot && m.is_reachable());
        let agent = machine.and_then(|machine| {
            let agent = machine.engine.containers.get(container)?;
            let engine = &machine.engine;
            let table = engine.table(agent.owner()).filter(|_| agent.is_running())?;
            Some((&machine.agent, table))
        });
        agent.map_or_else(Vec::new, |(agent, table)| {
            exec::draining(table, &agent.open)
        })
    }

    /// Sends a table to the agent in `container`.
    pub(super) async fn apply_table(&self, container: &str, table: Table) -> Result<Report> {
        let delay = {
            let state = self.actor.world().lock();
            let machine = state.machines.get(&self.machine);
            machine.map_or(Duration::ZERO, |machine| machine.agent.accepts_after)
        };
        sleep(delay).await;
        let call = self.call(format!("feed {container}"), |l| l.node_call);
        self.at_engine(call, |engine, _, _, _, _| {
            let found = engine.containers.get(container);
            let agent = found
                .filter(|agent| agent.is_running())
                .ok_or_else(|| Error::not_found(format!("container {container}")))?;
            let owner = agent.owner();
            // The agents of a node share their control socket.
            let serving = engine.serving_agent(owner).map(str::to_owned);
            let missing = || Error::not_found(format!("the table of {container}"));
            let current = engine.table_mut(owner).ok_or_else(missing)?;
            Ok(Done::unchanged(exec::accepted(current, table, serving)))
        })
        .await
    }

    /// Adds a built image to the engine.
    fn built(
        &self,
        state: &mut State,
        now: Instant,
        tag: &str,
        file: Dockerfile,
        earlier: &[String],
    ) -> Result<ImageInfo> {
        let missing = || Error::not_found(format!("image {tag}"));
        let machine = state.machines.get_mut(&self.machine).ok_or_else(missing)?;
        let images = &mut machine.engine.images;
        if let Some(base) = file.bases.iter().find(|base| !images.contains_key(*base)) {
            return Err(Error::failed(
                format!("building {tag}"),
                format!("pull access denied for {base}: the image is not on this engine"),
            ));
        }
        let base = file.last_base.and_then(|base| images.get(&base)).cloned();
        let mut image = base.unwrap_or_else(|| state.rules.plain_image(tag));
        let parent = std::mem::replace(&mut image.contents, file.contents);
        image.contents.push_str(&parent);
        image.id = state.rules.plain_image(tag).id;
        image.exposed.extend(file.exposed);
        image.has_healthcheck = file.healthcheck.unwrap_or(image.has_healthcheck);
        image.command = file.command.or(image.command);
        let same = images
            .values()
            .find(|old| earlier.contains(&old.id) && old.contents == image.contents);
        let image = same.cloned().unwrap_or(image);
        images.insert(tag.to_owned(), image);
        let info = machine.engine.image(tag, &state.rules);
        for holder in state.ledger.built(self.owner.id, tag, self.machine) {
            state.advance(holder, now);
            let holder = state.machines.get(&holder).filter(|machine| {
                machine.is_reachable() && machine.engine.images.contains_key(tag)
            });
            if let Some(holder) = holder.filter(|holder| holder.number != self.machine) {
                state.ledger.violations.push(Violation::BuiltTwice {
                    at: state.rules.date(now),
                    image: tag.to_owned(),
                    node: self.node.clone(),
                    holder: holder.name.clone(),
                });
            }
        }
        info.ok_or_else(missing)
    }
}

enum Search<T> {
    Found(T),
    NotYet,
    Over,
}

/// The result of searching an engine. The engine may be unreachable.
enum SearchResult<T> {
    Found(T),
    /// Nothing was found. The engine does not change by itself before this time.
    Nothing(Option<Instant>),
    Unreachable(Duration),
    Over,
}

async fn collected(bytes: ByteStream, what: &str) -> Result<Vec<u8>> {
    bytes
        .try_fold(Vec::new(), |mut all, part| async move {
            all.extend_from_slice(&part);
            Ok(all)
        })
        .await
        .map_err(|error| Error::Interrupted {
            what: what.to_owned(),
            source: Some(error.into()),
        })
}

#[async_trait]
impl ContainerRuntime for SimRuntime {
    async fn info(&self) -> Result<EngineInfo> {
        let call = self.call("info".into(), |l| l.node_call);
        self.at_engine(call, |_, _, _, _, _| Ok(Done::unchanged(engine_info())))
            .await
    }

    async fn state(&self) -> Result<EngineState> {
        let owner = self.owner.id;
        let call = self.call("state".into(), |l| l.node_call);
        self.at_engine(call, |engine, _, now, rules, _| {
            Ok(Done::unchanged(engine.state(owner, now, rules)))
        })
        .await
    }

    async fn ping(&self) -> Result<()> {
        let call = self.call("ping".into(), |l| l.node_call);
        self.at_engine(call, |_, _, _, _, _| Ok(Done::unchanged(())))
            .await
    }

    async fn container(&self, container: &str) -> Result<Option<ObservedContainer>> {
        let owner = self.owner.id;
        let call = self.call(format!("container {container}"), |l| l.node_call);
        self.at_engine(call, |engine, _, now, rules, _| {
            Ok(Done::unchanged(
                engine.container(container, owner, now, rules),
            ))
        })
        .await
    }

    async fn image(&self, name: &str) -> Result<Option<ImageInfo>> {
        let call = self.call(format!("image {name}"), |l| l.node_call);
        self.at_engine(call, |engine, _, _, rules, _| {
            Ok(Done::unchanged(engine.image(name, rules)))
        })
        .await
    }

    async fn build_image(
        &self,
        request: BuildRequest,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<ImageInfo> {
        let context = collected(request.context, "reading the build context").await?;
        let args: BTreeMap<String, String> = request
            .args
            .iter()
            .map(|(name, value)| (name.clone(), value.expose().to_owned()))
            .collect();
        let file = dockerfile::from_context(&context, &request.dockerfile, &args)?;
        progress(&format!("building {}", request.tag));
        let tag = request.tag;
        let call = self.effect(format!("build {tag}"), |l| l.build);
        let info = self
            .actor
            .call(call, |state, now| {
                self.built(state, now, &tag, file, &request.earlier)
                    .map(Done::changed)
            })
            .await?;
        progress(&format!("built {tag}"));
        Ok(info)
    }

    async fn pull_image(&self, name: &str, login: Option<&ImageLogin>) -> Result<ImageInfo> {
        let call = self.effect(format!("pull {name}"), |l| l.transfer);
        self.at_engine(call, |engine, _, _, rules, _| {
            let registry = ImageRegistry::of(name);
            let required = rules.private.get(&registry);
            let is_expired = login.is_some() && rules.expired.get(&registry) == login;
            if is_expired || required.is_some() && required != login {
                return Err(Error::denied(
                    format!("pulling image {name}"),
                    "unauthorized: authentication required",
                    "log in to the image's registry",
                ));
            }
            let image = rules
                .pullable
                .get(name)
                .ok_or_else(|| Error::not_found(format!("image {name}")))?;
            let changed = !engine.images.contains_key(name);
            engine.images.insert(name.to_owned(), image.clone());
            let value = engine
                .image(name, rules)
                .ok_or_else(|| Error::not_found(format!("image {name}")))?;
            Ok(Done { value, changed })
        })
        .await
    }

    async fn export_image(&self, name: &str) -> Result<ByteStream> {
        let call = self.call(format!("export {name}"), |l| l.transfer);
        let archive = self
            .at_engine(call, |engine, _, _, _, _| {
                let missing = || Error::not_found(format!("image {name}"));
                let image = engine.images.get(name).ok_or_else(missing)?;
                image.archive(name).map(Done::unchanged)
            })
            .await?;
        Ok(Box::pin(stream::once(async move { Ok(archive) })))
    }

    async fn import_image(&self, archive: ByteStream) -> Result<()> {
        let archive = collected(archive, "reading the image").await?;
        let (name, image): (String, Image) = serde_json::from_slice(&archive)
            .map_err(|error| Error::failed("importing an image", error.to_string()))?;
        let call = self.effect(format!("import {name}"), |l| l.transfer);
        self.at_engine(call, |engine, _, _, _, _| {
            let changed = engine.images.get(&name) != Some(&image);
            engine.images.insert(name, image);
            Ok(Done { value: (), changed })
        })
        .await
    }

    async fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        let call = self.effect(format!("name image {name}"), |l| l.node_call);
        self.at_engine(call, |engine, _, _, _, _| {
            let changed = engine.tag_image(image, name)?;
            Ok(Done { value: (), changed })
        })
        .await
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        let call = self.effect(format!("remove image {name}"), |l| l.node_call);
        self.at_engine(call, |engine, _, _, _, _| {
            let changed = engine.remove_image(name);
            Ok(Done { value: (), changed })
        })
        .await
    }

    async fn ensure_container(&self, spec: &ContainerSpec) -> Result<ObservedContainer> {
        if spec.owner.id != self.owner.id {
            return Err(Error::Invalid {
                what: format!("container {}", spec.name),
                why: "the container's owner is not the owner of this connection".into(),
                hint: "connect as the platform that owns the container".into(),
            });
        }
        let call = self.effect(format!("ensure {}", spec.name), |l| l.start);
        self.at_engine(call, |engine, here, now, rules, ledger| {
            let (value, changed) = engine.ensure(spec, now, here, rules, ledger)?;
            Ok(Done { value, changed })
        })
        .await
    }

    async fn start_container(&self, name: &str) -> Result<()> {
        let owner = self.owner.id;
        let call = self.effect(format!("start {name}"), |l| l.start);
        self.at_engine(call, |engine, here, now, rules, ledger| {
            let changed = engine.start_owned(name, owner, now, here, rules, ledger)?;
            Ok(Done { value: (), changed })
        })
        .await
    }

    async fn stop_container(&self, name: &str, grace: Option<Duration>) -> Result<()> {
        let owner = self.owner.id;
        let inspect = self.call(format!("inspect {name}"), |l| l.node_call);
        let grace = grace.unwrap_or(DEFAULT_STOP_GRACE);
        let (takes, code) = self
            .at_engine(inspect, |engine, here, _, rules, _| {
                Ok(Done::unchanged(engine.stopping(name, grace, here, rules)))
            })
            .await?;
        sleep(takes).await;
        let call = self.effect(format!("stop {name}"), |l| l.node_call);
        self.at_engine(call, |engine, here, now, _, ledger| {
            let changed = engine.stop(name, owner, code, now, here, ledger)?;
            Ok(Done { value: (), changed })
        })
        .await
    }

    async fn remove_container(&self, name: &str) -> Result<()> {
        let owner = self.owner.id;
        let call = self.effect(format!("remove {name}"), |l| l.node_call);
        self.at_engine(call, |engine, here, now, _, ledger| {
            let changed = engine.remove(name, owner, now, here, ledger)?;
            Ok(Done { value: (), changed })
        })
        .await
    }

    async fn remove_volume(&self, volume: &VolumeName) -> Result<()> {
        let owner = self.owner.id;
        let call = self.effect(format!("remove volume {volume}"), |l| l.node_call);
        self.at_engine(call, |engine, _, _, _, _| {
            let changed = engine.remove_volume(volume, owner)?;
            Ok(Done { value: (), changed })
        })
        .await
    }

    async fn logs(
        &self,
        container: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let owner = self.owner.id;
        let call = self.call(format!("logs {container}"), |l| l.node_call);
        let lines = self
            .at_engine(call, |engine, _, _, _, _| {
                let found = engine.find(container);
                let found = found.filter(|found| found.owner() == owner);
                let missing = || Error::not_found(format!("container {container}"));
                let found = found.ok_or_else(missing)?;
                Ok(Done::unchanged(found.log.clone()))
            })
            .await?;
        let read = lines.len();
        let since = options.since;
        let lines: Vec<LogLine> = lines
            .into_iter()
            .filter(|line| since.is_none_or(|since| line.at >= Some(since)))
            .collect();
        let tail = options.tail.map_or(lines.len(), |tail| {
            usize::try_from(tail).unwrap_or(usize::MAX)
        });
        let timestamps = options.timestamps;
        let formatted = move |line: LogLine| LogLine {
            at: line.at.filter(|_| timestamps),
            ..line
        };
        let skipped = lines.len().saturating_sub(tail);
        let old: Vec<LogLine> = lines.into_iter().skip(skipped).map(formatted).collect();
        let old = stream::iter(old).map(Ok);
        if !options.follow {
            return Ok(old.boxed());
        }
        let following = Following {
            signal: self.watch()?,
            runtime: self.clone(),
            container: container.to_owned(),
            read,
            waiting: VecDeque::new(),
        };
        let new = stream::try_unfold(following, move |mut following| async move {
            let line = following.next().await?;
            Ok(line.map(|line| (formatted(line), following)))
        });
        Ok(old.chain(new).boxed())
    }

    async fn exec(&self, container: &str, command: &ExecCommand) -> Result<ExecSession> {
        let owner = self.owner.id;
        let call = self.call(format!("exec in {container}"), |l| l.node_call);
        let (id, name, host) = self
            .at_engine(call, |engine, _, _, _, _| {
                let found = engine.find(container);
                let found = found.filter(|found| found.owner() == owner);
                let missing = || Error::not_found(format!("container {container}"));
                let found = found.ok_or_else(missing)?;
                let host = exec::Host {
                    role: found.spec.role.clone(),
                    runs: found.is_running(),
                    serving: engine.serving_agent(owner).map(str::to_owned),
                };
                let name = found.spec.name.clone();
                Ok(Done::unchanged((engine.new_command(&name), name, host)))
            })
            .await?;
        exec::start(self.clone(), name, &host, &command.command, id)
    }

    async fn resize_exec(&self, _: &str, _: TerminalSize) -> Result<()> {
        // The simulation ignores terminal sizes.
        Ok(())
    }

    async fn end_exec(&self, id: &str) -> Result<()> {
        let call = self.call(format!("end {id}"), |l| l.node_call);
        self.at_engine(call, |engine, _, _, _, _| {
            engine.end_command(id);
            Ok(Done::changed(()))
        })
        .await
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>> {
        let owner = self.owner.id;
        let call = self.call("events".into(), |l| l.node_call);
        let last = self
            .at_engine(call, |engine, _, _, _, _| {
                Ok(Done::unchanged(engine.last_event()))
            })
            .await?;
        let start = (self.clone(), self.watch()?, last);
        let events = stream::try_unfold(start, move |(runtime, mut signal, last)| async move {
            let found = runtime
                .await_in_engine(&mut signal, |engine| {
                    match engine.event_after(last, owner) {
                        Some(event) => Search::Found(event),
                        None => Search::NotYet,
                    }
                })
                .await?;
            Ok(found.map(|(number, event)| (event, (runtime, signal, number))))
        });
        Ok(events.boxed())
    }
}

/// A log that is followed.
struct Following {
    runtime: SimRuntime,
    signal: watch::Receiver<u64>,
    container: String,
    read: usize,
    waiting: VecDeque<LogLine>,
}

impl Following {
    /// Returns the next line; `None` if the container has exited.
    async fn next(&mut self) -> Result<Option<LogLine>> {
        if let Some(line) = self.waiting.pop_front() {
            return Ok(Some(line));
        }
        let (read, name) = (self.read, &self.container);
        let lines = self
            .runtime
            .await_in_engine(&mut self.signal, |engine| match engine.find(name) {
                Some(container) if container.log.len() > read => {
                    Search::Found(container.log[read..].to_vec())
                }
                Some(container) if container.is_running() => Search::NotYet,
                Some(_) | None => Search::Over,
            })
            .await?
            .unwrap_or_default();
        self.read += lines.len();
        self.waiting.extend(lines);
        Ok(self.waiting.pop_front())
    }
}
