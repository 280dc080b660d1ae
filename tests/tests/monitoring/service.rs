//! Who answers Prometheus on the guarded host: a stand-in that serves [`METRICS`], as OpenMetrics.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::Result;
use firewall_tests::net::Host;

use crate::METRICS;

/// Serves the metrics while it lives.
#[derive(Debug)]
pub(crate) struct Service {
    listener: TcpListener,
}

impl Service {
    /// Starts it at an address of `host`.
    pub(crate) fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let listener = host.enter(|| Ok(TcpListener::bind(address)?))?;
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                // Whoever asks may go before the answer.
                let _ = answer(stream);
            }
        });
        Ok(Self { listener })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ends the thread that accepts; an error only means that it has ended.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// Reads one request, whatever it is, and closes.
fn answer(mut stream: TcpStream) -> Result<()> {
    for line in BufReader::new(stream.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{METRICS}",
        METRICS.len()
    )?;
    Ok(())
}
