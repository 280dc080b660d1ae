//! The service from its first look to its end: ready when that is done, alive as long as looks come to an end.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Serve;
use super::health::Health;
use super::http::Endpoint;
use super::keeper::{Keeper, Next};
use super::listen::Listener;
use super::scraper::Scraper;
use super::tally::Tally;
use super::watcher::{Wake, Watcher};
use crate::kernel::netlink;

/// How often somebody looks where nothing wakes him.
const INTERVAL: Duration = Duration::from_secs(1);
/// How soon after one look the next comes at the earliest: interfaces may come and go by the hundred.
const PAUSE: Duration = Duration::from_millis(20);
/// How long commands may keep the service from being ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Threads for what blocks: one looks, one scrapes, and one is to spare.
const BLOCKING_THREADS: usize = 3;

/// Has what is told from now on written to standard error, which is the journal's if systemd has started this.
pub(super) fn log_to_standard_error() {
    let is_terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_target(false);
    // The journal has the time itself.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}

/// Serves until it is told to end.
pub(super) fn run(serve: &Serve, listeners: Vec<Listener>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let served = runtime.block_on(serving(serve, listeners));
    // A look that is not over would be waited for.
    runtime.shutdown_timeout(INTERVAL);
    served
}

async fn serving(serve: &Serve, listeners: Vec<Listener>) -> Result<()> {
    let (mut end, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut reload = signal(SignalKind::hangup())?;
    let (tally, health) = (Arc::<Tally>::default(), Arc::<Health>::default());
    let wake = Arc::<Wake>::default();
    let mut watcher = Watcher::new(wake.clone())?;
    let keeper = Keeper::new(serve, tally.clone(), health.clone(), wake.clone());
    let keeper = Arc::new(Mutex::new(keeper));
    listen_to_links(wake.clone());

    let interval = sd_notify::watchdog_enabled().map_or(INTERVAL, |watchdog| watchdog / 4);
    let interval = interval.min(INTERVAL);
    let mut listeners = Some(listeners);
    let started = Instant::now();
    loop {
        let began = Instant::now();
        let next = look(&keeper).await;
        watcher.watch(next.folders);
        // What is to be guarded is so by now, or cannot be.
        let is_ready = !next.waits || started.elapsed() > PATIENCE;
        if let Some(listeners) = listeners.take_if(|_| is_ready) {
            let scraper = Scraper::new(serve.interface.clone(), tally.clone());
            let endpoint = Endpoint::new(Arc::new(scraper), health.clone(), tally.clone());
            let endpoint = Arc::new(endpoint);
            for listener in listeners {
                endpoint.clone().listen(listener).context("listening")?;
            }
            info!("ready");
            tell(&[NotifyState::Ready]);
        }
        tell(&[NotifyState::Watchdog]);
        sleep(PAUSE.saturating_sub(began.elapsed())).await;
        tokio::select! {
            () = wake.notify.notified() => {}
            () = sleep(next.within.map_or(interval, |within| within.min(interval))) => {}
            _ = reload.recv() => {
                info!("told to reload");
                tell(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]);
                lock(&keeper).reload();
                look(&keeper).await;
                tell(&[NotifyState::Ready]);
            }
            _ = end.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    info!("told to end; the kernel goes on guarding");
    tell(&[NotifyState::Stopping]);
    let keeper = keeper.clone();
    let ending = tokio::task::spawn_blocking(move || lock(&keeper).end());
    ending.await.context("ending")?
}

/// Has the keeper look on a thread on which it may take its time.
async fn look(keeper: &Arc<Mutex<Keeper>>) -> Next {
    let keeper = keeper.clone();
    let looking = tokio::task::spawn_blocking(move || lock(&keeper).look());
    looking.await.unwrap_or_else(|error| {
        warn!("looking after the interfaces: {error}");
        Next {
            within: None,
            waits: false,
            folders: BTreeSet::new(),
        }
    })
}

/// Wakes the service whenever something about an interface changes.
fn listen_to_links(wake: Arc<Wake>) {
    tokio::spawn(async move {
        loop {
            let woken = wake.clone();
            if let Err(error) = netlink::on_link_changes(move || woken.notify.notify_one()).await {
                warn!("listening to changes of interfaces: {error:#}");
            }
            sleep(INTERVAL).await;
        }
    });
}

fn tell(states: &[NotifyState<'_>]) {
    // Nobody may be listening.
    let _ = sd_notify::notify(states);
}

fn lock(keeper: &Mutex<Keeper>) -> std::sync::MutexGuard<'_, Keeper> {
    keeper
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
