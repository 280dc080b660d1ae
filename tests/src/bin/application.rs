//! The application of the infrastructure: notes over HTTP, kept in a database.
//!
//! `firewall-infra-application PRIMARY REPLICA` takes two addresses. `POST /notes` writes its body to the primary and answers
//! with the note's number; `GET /notes?NUMBER` reads that one from the replica, 404 if it is not there yet. Port 8081 has
//! metrics.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mysql::prelude::Queryable as _;
use mysql::{OptsBuilder, Pool, PoolConstraints, PoolOpts};
use tokio::net::TcpListener;

const PORT: u16 = 8080;
const METRICS_PORT: u16 = 8081;

/// The longest note, in bytes.
const LONGEST: usize = 200;

/// Both databases, and what was asked of them.
struct Notes {
    primary: Pool,
    replica: Pool,
    read: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| -> Result<IpAddr> {
        let text = arguments.next().with_context(|| format!("which {what}?"))?;
        text.parse()
            .with_context(|| format!("{text} is no address"))
    };
    let (primary, replica) = (next("primary")?, next("replica")?);
    let notes = Arc::new(Notes {
        primary: pool(primary)?,
        replica: pool(replica)?,
        read: AtomicU64::new(0),
        written: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    let listeners = [
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await?,
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, METRICS_PORT)).await?,
    ];
    println!("serving");
    let [requests, metrics] = listeners;
    tokio::join!(
        serve(requests, Arc::clone(&notes)),
        serve(metrics, Arc::clone(&notes))
    );
    Ok(())
}

/// Connections to a database, made as they are needed.
fn pool(address: IpAddr) -> Result<Pool> {
    let limits = PoolConstraints::new(0, 16).context("limits of a pool")?;
    let options = OptsBuilder::new()
        .ip_or_hostname(Some(address.to_string()))
        .user(Some("application"))
        .pass(Some("not-a-secret"))
        .db_name(Some("site"))
        .tcp_connect_timeout(Some(std::time::Duration::from_secs(2)))
        .prefer_socket(false)
        .pool_opts(PoolOpts::default().with_constraints(limits));
    Ok(Pool::new(options)?)
}

async fn serve(listener: TcpListener, notes: Arc<Notes>) {
    // Both ports answer to all paths: which may be reached is for the firewall to say.
    while let Ok((stream, _)) = listener.accept().await {
        let notes = Arc::clone(&notes);
        let service = service_fn(move |request| {
            let notes = Arc::clone(&notes);
            async move { Ok::<_, Infallible>(answer(request, notes).await) }
        });
        tokio::spawn(async move {
            // A client that goes away is no error of ours.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, notes: Arc<Notes>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics(&notes)),
        (&Method::GET, "/notes") => {
            let number = request.uri().query().and_then(|query| query.parse().ok());
            match number {
                Some(number) => blocking(notes, move |notes| read(notes, number)).await,
                None => (StatusCode::BAD_REQUEST, "which note?".to_owned()),
            }
        }
        (&Method::POST, "/notes") => {
            match Limited::new(request.into_body(), LONGEST).collect().await {
                Ok(body) => {
                    let note = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                    blocking(notes, move |notes| write(notes, &note)).await
                }
                Err(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too long".to_owned()),
            }
        }
        _ => (StatusCode::NOT_FOUND, "no such page".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text + "\n")));
    *response.status_mut() = status;
    response
}

/// Asks a database on a thread that may wait.
async fn blocking(
    notes: Arc<Notes>,
    ask: impl FnOnce(&Notes) -> Result<(StatusCode, String), mysql::Error> + Send + 'static,
) -> (StatusCode, String) {
    let asked = tokio::task::spawn_blocking(move || {
        ask(&notes).unwrap_or_else(|error| {
            notes.failed.fetch_add(1, Ordering::Relaxed);
            (StatusCode::BAD_GATEWAY, error.to_string())
        })
    });
    asked
        .await
        .unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn read(notes: &Notes, number: u64) -> Result<(StatusCode, String), mysql::Error> {
    let mut connection = notes.replica.get_conn()?;
    let note: Option<String> =
        connection.exec_first("SELECT note FROM notes WHERE id = ?", (number,))?;
    notes.read.fetch_add(1, Ordering::Relaxed);
    Ok(match note {
        Some(note) => (StatusCode::OK, note),
        None => (StatusCode::NOT_FOUND, "not here, or not yet".to_owned()),
    })
}

fn write(notes: &Notes, note: &str) -> Result<(StatusCode, String), mysql::Error> {
    let mut connection = notes.primary.get_conn()?;
    connection.exec_drop("INSERT INTO notes (note) VALUES (?)", (note,))?;
    notes.written.fetch_add(1, Ordering::Relaxed);
    Ok((StatusCode::OK, connection.last_insert_id().to_string()))
}

fn metrics(notes: &Notes) -> String {
    [
        ("notes_read_total", &notes.read),
        ("notes_written_total", &notes.written),
        ("notes_failed_total", &notes.failed),
    ]
    .map(|(name, counter)| format!("{name} {}\n", counter.load(Ordering::Relaxed)))
    .concat()
}
