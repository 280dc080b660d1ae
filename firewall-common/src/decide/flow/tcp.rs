//! TCP's part of a flow: which segments open one, what they do to its state, and which lie in the windows.
//!
//! The bounds are those of nf_conntrack_proto_tcp.c after van Rooij's "Real Stateful TCP Packet Filtering in IP Filter",
//! seen from an end instead of the middle: what leaves is the host's own word and is believed, so that only what arrives
//! is judged. With `W` the largest window that we announced, `P` the largest that the peer did, both rounded up to a
//! power of two, and `A` our highest acknowledgment, an arriving segment must
//!
//! - begin at `A + W` or before, and end at `A - W` or behind;
//! - acknowledge nothing behind what we sent, and nothing more than `P` before that;
//! - if it is a RST, begin between `A` and `A + W`. The host itself takes only `A` (RFC 5961, 3.2), and so only that ends the
//!   flow: to others it sends a challenge, and needs the answer.

use super::{Answer, Step};
use crate::abi::flow::{MAX_WINDOW_BITS, MIN_WINDOW_BITS, Received, Sequences, State};
use crate::parse::transport::tcp_flag::{ACK, FIN, RST, SYN};

/// What of a TCP header concerns its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The flags byte.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number, whether or not the flag says that it counts.
    pub acknowledgment: u32,
    /// The window as it is in the header.
    pub window: u16,
    /// SYN only: shift of the window scale option (RFC 7323), `Some(0)` if there is no such option, `None` if it was not
    /// looked for. The largest shift is then assumed: it loses no answer.
    pub window_scale: Option<u8>,
    /// Bytes of data, those of all segments where segmentation is left to the hardware.
    pub payload: u32,
}

/// Largest shift (RFC 7323, 2.3).
const MAX_SCALE: u32 = 14;

/// What a segment is, by the flag that weighs most.
#[derive(Clone, Copy)]
enum Class {
    Rst,
    Syn,
    SynAck,
    Fin,
    Ack,
    /// None of them: no TCP sends that.
    Void,
}

impl Segment {
    #[inline(always)]
    const fn class(&self) -> Class {
        if self.flags & RST != 0 {
            Class::Rst
        } else if self.flags & SYN != 0 {
            if self.flags & ACK != 0 {
                Class::SynAck
            } else {
                Class::Syn
            }
        } else if self.flags & ACK == 0 {
            Class::Void
        } else if self.flags & FIN != 0 {
            Class::Fin
        } else {
            Class::Ack
        }
    }

    /// Sequence number behind the segment: SYN and FIN take one each.
    #[inline(always)]
    const fn end(&self) -> u32 {
        let marks = (self.flags & FIN) as u32 + (self.flags & SYN != 0) as u32;
        self.sequence.wrapping_add(self.payload).wrapping_add(marks)
    }

    /// The shift that a SYN announces.
    #[inline(always)]
    const fn scale(&self) -> u32 {
        match self.window_scale {
            Some(scale) if (scale as u32) < MAX_SCALE => scale as u32,
            _ => MAX_SCALE,
        }
    }
}

/// State, sequences and our window's bits of the flow that an outgoing segment opens, if it may: a SYN, or data and
/// acknowledgments of a connection that is older than the table. SYN+ACK, RST and FIN do not.
#[inline(always)]
pub(super) fn opens(segment: &Segment, received: &mut Received) -> Option<(State, Sequences, u32)> {
    match segment.class() {
        Class::Syn => {
            received.local_scale = segment.scale();
            received.remote_scale = MAX_SCALE;
            let sequences = Sequences {
                sent_end: segment.end(),
                acked: segment.sequence,
            };
            Some((State::SynSent, sequences, MIN_WINDOW_BITS))
        }
        Class::Ack => {
            received.picked_up = 1;
            received.local_scale = MAX_SCALE;
            received.remote_scale = MAX_SCALE;
            received.window_bits = MAX_WINDOW_BITS;
            let sequences = Sequences {
                sent_end: segment.end(),
                acked: segment.acknowledgment,
            };
            Some((State::PickedUp, sequences, MAX_WINDOW_BITS))
        }
        Class::Rst | Class::SynAck | Class::Fin | Class::Void => None,
    }
}

/// What an outgoing segment does to its connection.
///
/// `live` is false if the timeout has passed, which does not matter as long as the host goes on with the connection.
#[inline(always)]
pub(super) fn leaves(
    state: State,
    live: bool,
    segment: &Segment,
    received: &Received,
    sequences: &mut Sequences,
    window_bits: &mut u32,
) -> Step {
    let opening = is_opening(state);
    let next = match segment.class() {
        Class::Void => return Step::Ignore,
        Class::Syn => {
            if !(live && opening && segment.sequence == sequences.acked) {
                // Whatever was known, the host begins a connection now.
                return Step::Renew;
            }
            advance(&mut sequences.sent_end, segment.end());
            return Step::Keep(state);
        }
        Class::SynAck => {
            if !opening {
                // Sent again in a simultaneous open, or by a server whose client's ports are those of an old flow.
                return if live {
                    Step::Keep(state)
                } else {
                    Step::Ignore
                };
            }
            return Step::Keep(State::SynReceived);
        }
        Class::Rst => {
            return match state {
                // This answers a stray segment and goes back to its sequence; an aborted SYN sends no RST (RFC 9293, 3.10.5).
                State::SynSent => Step::Ignore,
                _ => Step::Keep(State::Reset),
            };
        }
        Class::Fin => match state {
            State::Reset => {
                return if live {
                    Step::Keep(state)
                } else {
                    Step::Ignore
                };
            }
            State::FinReceived | State::FinBoth => State::FinBoth,
            _ => State::FinSent,
        },
        Class::Ack => match state {
            // An old connection's remains, and the host is in a newer one whose SYN was not seen.
            State::Reset | State::FinBoth if !live => return Step::Renew,
            // After the peer's RST: it was not the host's opinion that this ends the connection (RFC 5961).
            State::SynSent | State::SynReceived | State::ResetReceived => State::Established,
            state => state,
        },
    };
    // What the peer's window cannot have held any more is not sent again: the flow is another one.
    let behind = sequences.sent_end.wrapping_sub(segment.sequence) as i32;
    if !opening && behind > 1 << received.window_bits {
        return match segment.class() {
            Class::Ack => Step::Renew,
            _ => Step::Keep(next),
        };
    }
    if opening {
        sequences.acked = segment.acknowledgment;
    } else {
        advance(&mut sequences.acked, segment.acknowledgment);
    }
    advance(&mut sequences.sent_end, segment.end());
    grow(
        window_bits,
        u32::from(segment.window) << received.local_scale,
    );
    Step::Keep(next)
}

/// The state in which an arriving segment leaves its connection, or why it is no answer.
///
/// `sequences` change only together with the state.
#[inline(always)]
pub(super) fn arrives(
    state: State,
    segment: &Segment,
    window_bits: u32,
    sequences: &mut Sequences,
    received: &mut Received,
) -> Result<State, Answer> {
    let opening = is_opening(state);
    let class = segment.class();
    match class {
        Class::Void => Err(Answer::WrongState),
        Class::Rst => {
            let inside = if opening {
                segment.flags & ACK != 0 && acknowledges_syn(segment, *sequences)
            } else {
                segment.sequence.wrapping_sub(sequences.acked) <= 1 << window_bits
            };
            if !inside {
                return Err(Answer::OutOfWindow);
            }
            let ends = opening || segment.sequence == sequences.acked;
            Ok(match state {
                State::Reset => State::Reset,
                _ if ends => State::ResetReceived,
                state => state,
            })
        }
        Class::Syn => {
            if opening {
                Ok(State::SynReceived)
            } else {
                Err(Answer::WrongState)
            }
        }
        Class::SynAck if opening => {
            if !acknowledges_syn(segment, *sequences) {
                return Err(Answer::OutOfWindow);
            }
            sequences.acked = segment.sequence.wrapping_add(1);
            received.remote_scale = segment.scale();
            grow(&mut received.window_bits, u32::from(segment.window));
            Ok(State::Established)
        }
        Class::Ack | Class::Fin if opening => match state {
            State::SynReceived => {
                if !acknowledges_syn(segment, *sequences) {
                    return Err(Answer::OutOfWindow);
                }
                sequences.acked = segment.sequence;
                grow(
                    &mut received.window_bits,
                    u32::from(segment.window) << received.remote_scale,
                );
                Ok(match class {
                    Class::Fin => State::FinReceived,
                    _ => State::Established,
                })
            }
            // The peer knows an older connection and says where it stands; the host must see that to reset it (half-open
            // connections, RFC 9293, 3.5.1; challenge ACK, RFC 5961, 4.2). The acknowledgment may be any.
            _ if matches!(class, Class::Ack) && segment.payload == 0 => Ok(state),
            _ => Err(Answer::WrongState),
        },
        Class::SynAck | Class::Ack | Class::Fin => {
            if !in_window(segment, window_bits, *sequences, received) {
                return Err(Answer::OutOfWindow);
            }
            if !matches!(class, Class::SynAck) {
                grow(
                    &mut received.window_bits,
                    u32::from(segment.window) << received.remote_scale,
                );
            }
            Ok(match (class, state) {
                (Class::Fin, State::PickedUp | State::Established) => State::FinReceived,
                (Class::Fin, State::FinSent) => State::FinBoth,
                (_, State::PickedUp) => State::Established,
                _ => state,
            })
        }
    }
}

/// Whether we may have sent a segment with this sequence number that still waits to be acknowledged.
#[inline(always)]
pub(super) fn may_have_sent(sequence: u32, sequences: Sequences, received: Received) -> bool {
    is_between(
        sequence,
        sequences.sent_end,
        1 << received.window_bits,
        ahead(&received),
    )
}

/// Whether our SYN waits for its answer, and [`Sequences::acked`] is our initial sequence number.
#[inline(always)]
const fn is_opening(state: State) -> bool {
    matches!(state, State::SynSent | State::SynReceived)
}

/// Whether the SYN or what went with it is acknowledged (RFC 9293, 3.10.7.3).
#[inline(always)]
const fn acknowledges_syn(segment: &Segment, sequences: Sequences) -> bool {
    let acknowledged = segment.acknowledgment.wrapping_sub(sequences.acked);
    acknowledged != 0 && acknowledged <= sequences.sent_end.wrapping_sub(sequences.acked)
}

#[inline(always)]
fn in_window(
    segment: &Segment,
    window_bits: u32,
    sequences: Sequences,
    received: &Received,
) -> bool {
    let window = 1i32 << window_bits;
    let start = segment.sequence.wrapping_sub(sequences.acked) as i32;
    let end = segment.end().wrapping_sub(sequences.acked) as i32;
    start <= window
        && end >= -window
        && is_between(
            segment.acknowledgment,
            sequences.sent_end,
            1 << received.window_bits,
            ahead(received),
        )
}

/// How far the peer may be ahead of what was seen to leave.
#[inline(always)]
const fn ahead(received: &Received) -> u32 {
    received.picked_up << MAX_WINDOW_BITS
}

/// Whether `number` is at most `before` before `middle` and at most `behind` behind it.
#[inline(always)]
const fn is_between(number: u32, middle: u32, before: u32, behind: u32) -> bool {
    number.wrapping_sub(middle).wrapping_add(before) <= before + behind
}

/// Moves `highest` up to `number`, if that is later.
#[inline(always)]
const fn advance(highest: &mut u32, number: u32) {
    if number.wrapping_sub(*highest) as i32 > 0 {
        *highest = number;
    }
}

/// Makes `bits` large enough that a window of `window` bytes is below two to that power.
#[inline(always)]
const fn grow(bits: &mut u32, window: u32) {
    if window >> *bits != 0 {
        *bits = u32::BITS - window.leading_zeros();
    }
}

#[cfg(test)]
pub(super) mod tests;
