//! Which slot a new flow takes: the one of the highest rank, which is a class, below it the idle time, and below that
//! three bits for the slot's index.

use crate::abi::flow::{Settings, SlotWord, State, WAYS};

/// The slot is being written.
pub(super) const NEVER: u64 = 0;
/// The flow was answered, and is open as far as anybody knows.
const ANSWERED: u64 = 1;
/// A question was answered, and that was perhaps all: thousands of names that are looked up push out no connection.
const ANSWERED_ONCE: u64 = 2;
/// The connection is being closed.
const CLOSING: u64 = 3;
/// The flow was not answered: what a storm of new flows consists of makes room for itself.
const UNANSWERED: u64 = 4;
/// The connection was reset: there is hardly anything to lose.
const RESET: u64 = 5;
/// The timeout has passed.
const EXPIRED: u64 = 6;
/// From here on no live flow is evicted.
pub(super) const GONE: u64 = EXPIRED << CLASS_SHIFT;
/// The slot is free.
const EMPTY: u64 = 7 << CLASS_SHIFT;

const CLASS_SHIFT: u32 = 32;

/// Four bits for each state.
const CLASSES: u64 = {
    let mut classes = 0;
    let mut index = 0;
    while index < State::ALL.len() {
        let state = State::ALL[index];
        let class = match state {
            State::PickedUp
            | State::SynSent
            | State::UdpSent
            | State::EchoSent
            | State::OtherSent => UNANSWERED,
            State::FinSent | State::FinReceived | State::FinBoth => CLOSING,
            State::Reset | State::ResetReceived => RESET,
            State::UdpAnswered | State::EchoAnswered | State::OtherAnswered => ANSWERED_ONCE,
            State::SynReceived | State::Established | State::UdpStream => ANSWERED,
        };
        classes |= class << (4 * state as u32);
        index += 1;
    }
    classes
};

/// The rank of a slot.
#[inline(always)]
pub(super) fn of(word: SlotWord, settings: &Settings, now: u32) -> u64 {
    if word.0 == SlotWord::EMPTY.0 {
        return EMPTY;
    }
    if word.0 == SlotWord::BUSY.0 {
        return NEVER;
    }
    let class = if settings.expired(word, now) {
        EXPIRED
    } else {
        CLASSES >> (4 * word.state_number()) & 15
    };
    (class << CLASS_SHIFT) | (u64::from(word.idle(now)) * WAYS as u64)
}
