//! The endpoint: `GET /metrics` and `GET /healthz`, and nothing that could change anything.
//!
//! Each connection is for one request and lasts some seconds at the most, headers have a greatest size, and there is a greatest number
//! of connections: a further one takes the place of the oldest, so that those who only occupy places keep nobody out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::health::Health;
use super::listen::Listener;
use super::scraper::Scraper;
use super::tally::Tally;

/// Most connections at a time, over all listeners.
const MAX_CONNECTIONS: usize = 64;
/// Longest request line and headers, in bytes; hyper reads no less.
const MAX_HEADER_BYTES: usize = 8192;
/// Most headers.
const MAX_HEADERS: usize = 64;
/// How long a request may take to come in.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a connection lasts, however slowly the answer is taken.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// How long to wait where no connection can be taken, for want of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// What answers come from.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) scraper: Arc<Scraper>,
    pub(super) health: Arc<Health>,
    pub(super) tally: Arc<Tally>,
    connections: Mutex<VecDeque<AbortHandle>>,
}

impl Endpoint {
    pub(super) fn new(scraper: Arc<Scraper>, health: Arc<Health>, tally: Arc<Tally>) -> Self {
        Self {
            scraper,
            health,
            tally,
            connections: Mutex::default(),
        }
    }

    /// Answers whoever comes to this listener.
    pub(super) fn listen(self: Arc<Self>, listener: Listener) -> std::io::Result<()> {
        match listener {
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                tokio::spawn(async move {
                    loop {
                        let taken = listener.accept().await.map(|(stream, _)| stream);
                        self.take(taken).await;
                    }
                });
            }
            Listener::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                tokio::spawn(async move {
                    loop {
                        let taken = listener.accept().await.map(|(stream, _)| stream);
                        self.take(taken).await;
                    }
                });
            }
        }
        Ok(())
    }

    async fn take<S>(self: &Arc<Self>, taken: std::io::Result<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(stream) = taken else {
            sleep(PAUSE).await;
            return;
        };
        let endpoint = self.clone();
        let connection = tokio::spawn(async move {
            let service = service_fn(|request| {
                let endpoint = endpoint.clone();
                async move { Ok::<_, Infallible>(endpoint.answer(&request).await) }
            });
            let serving = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(MAX_HEADER_BYTES)
                .max_header_size(MAX_HEADER_BYTES)
                .max_headers(MAX_HEADERS)
                .header_read_timeout(HEADER_TIME)
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // What became of one connection is nobody's concern but that of its other end.
            let _ = timeout(CONNECTION_TIME, serving).await;
        });
        self.make_room(connection.abort_handle());
    }

    fn make_room(&self, newcomer: AbortHandle) {
        let connections = self.connections.lock();
        let mut connections = connections.unwrap_or_else(std::sync::PoisonError::into_inner);
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
            self.tally.connection_refused();
        }
        connections.push_back(newcomer);
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match request.uri().path() {
            "/metrics" => response(StatusCode::OK, METRICS_TYPE, self.scraper.scrape().await),
            "/healthz" => match self.health.problems() {
                problems if problems.is_empty() => text(StatusCode::OK, "ok\n"),
                problems => text(StatusCode::SERVICE_UNAVAILABLE, problems),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, TEXT_TYPE, body.into())
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store")] {
        headers.insert(name, hyper::header::HeaderValue::from_static(value));
    }
    response
}
