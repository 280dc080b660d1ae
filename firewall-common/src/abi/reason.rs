//! Why a packet was dropped, or let through without a rule. Numbers are counter slots and metric labels for good: they
//! are never changed and never reused.

macro_rules! reasons {
    (
        $(#[$attribute:meta])* $name:ident {
            $($variant:ident = $number:literal, $label:literal, $sentence:literal;)*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $name {
            $(#[doc = $sentence] $variant = $number,)*
        }

        impl $name {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in output and metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// The fixed number.
            #[inline(always)]
            pub const fn number(self) -> u32 {
                self as u32
            }
        }
    };
}

reasons! {
    /// Why a packet was dropped.
    DropReason {
        NoRule = 1, "no-rule", "No rule matched and the default is to drop.";
        Rule = 2, "rule", "A rule with action drop matched; the rule's own counter says which.";
        BrokenTables = 3, "broken-tables", "The policy tables are missing or inconsistent; nothing is let through on a guess.";

        EthernetTruncated = 10, "ethernet-truncated", "The frame ends inside the Ethernet or VLAN header.";
        VlanTooManyTags = 11, "vlan-too-many-tags", "More than two VLAN tags.";
        EthertypeUnlisted = 12, "ethertype-unlisted", "Neither IP nor a link-layer protocol that is let through.";
        EssentialOff = 13, "essential-off", "ARP or a link-layer protocol that the rule file switches off.";
        VlanNotListed = 14, "vlan-not-listed", "The rule file lists VLANs, and this frame is of another.";

        Ipv4Truncated = 20, "ipv4-truncated", "The frame ends inside the IPv4 header.";
        Ipv4Version = 21, "ipv4-version", "The ethertype says IPv4, the version field does not.";
        Ipv4HeaderLength = 22, "ipv4-header-length", "IHL below 5 (RFC 791, 3.1).";
        Ipv4LengthShort = 23, "ipv4-length-short", "Total length smaller than the header.";
        Ipv4LengthLong = 24, "ipv4-length-long", "Total length larger than the frame.";
        Ipv4Options = 25, "ipv4-options", "Options whose lengths do not fit the header.";
        Ipv4SourceRoute = 26, "ipv4-source-route", "Loose or strict source route option (RFC 7126, 4.3 and 4.4).";

        Ipv6Truncated = 30, "ipv6-truncated", "The frame ends inside the IPv6 header or an extension header.";
        Ipv6Version = 31, "ipv6-version", "The ethertype says IPv6, the version field does not.";
        Ipv6LengthLong = 32, "ipv6-length-long", "Payload length larger than the frame, or a jumbogram.";
        Ipv6TooManyHeaders = 33, "ipv6-too-many-headers", "More extension headers than are followed.";
        Ipv6HeaderOrder = 34, "ipv6-header-order", "A hop-by-hop header that is not the first (RFC 8200, 4.1).";
        Ipv6RoutingHeader = 35, "ipv6-routing-header", "A routing header of type 0 (RFC 5095) or with segments left.";

        SourceMulticast = 40, "source-multicast", "The source is a multicast address.";
        SourceBroadcast = 41, "source-broadcast", "The source is the limited broadcast address.";
        SourceLoopback = 42, "source-loopback", "The source is a loopback address.";
        SourceZero = 43, "source-zero", "The source is in 0.0.0.0/8 but not the unspecified address (RFC 1122, 3.2.1.3).";
        SourceMapped = 44, "source-mapped", "The source is an IPv4-mapped IPv6 address, which never belongs on a wire.";
        SourceIsDestination = 45, "source-is-destination", "Source and destination are the same address (LAND).";
        DestinationLoopback = 46, "destination-loopback", "The destination is a loopback address.";
        DestinationMapped = 47, "destination-mapped", "The destination is an IPv4-mapped IPv6 address, which never belongs on a wire.";

        FragmentLater = 50, "fragment-later", "A later fragment whose first one was not seen, and more such came than are let in.";
        FragmentNeighbourDiscovery = 51, "fragment-nd", "Neighbour discovery in a fragment (RFC 6980).";
        FragmentRepeated = 52, "fragment-repeated", "More than one fragment header.";
        FragmentTiny = 53, "fragment-tiny", "A first fragment too short for its transport header (RFC 1858, RFC 7112).";
        FragmentDenied = 54, "fragment-denied", "A later fragment of a datagram whose first one was refused.";
        FragmentOverlap = 55, "fragment-overlap", "A later fragment that would rewrite the TCP header of the first (RFC 1858, RFC 3128); in IPv6, whatever it says that it carries.";
        FragmentBeyond = 56, "fragment-beyond", "A later fragment that reaches beyond the 65,535 bytes that a packet can have.";

        TcpTruncated = 60, "tcp-truncated", "The packet ends inside the TCP header.";
        TcpDataOffset = 61, "tcp-data-offset", "Data offset below 5, or beyond the packet.";
        TcpFlagsNull = 62, "tcp-flags-null", "No TCP flag at all.";
        TcpFlagsSynFin = 63, "tcp-flags-syn-fin", "SYN with FIN.";
        TcpFlagsSynRst = 64, "tcp-flags-syn-rst", "SYN with RST.";
        TcpFlagsFinRst = 65, "tcp-flags-fin-rst", "FIN with RST.";
        TcpFlagsXmas = 66, "tcp-flags-xmas", "FIN, PSH and URG without ACK.";
        TcpFlagsInvalid = 67, "tcp-flags-invalid", "Another combination of TCP flags that no TCP sends, such as FIN without ACK or URG with RST.";
        PortZero = 68, "port-zero", "Source or destination port 0.";
        UdpTruncated = 69, "udp-truncated", "The packet ends inside the UDP header.";
        UdpLength = 70, "udp-length", "UDP length below 8 or beyond the packet.";
        SctpTruncated = 71, "sctp-truncated", "The packet ends inside the SCTP common header.";
        IcmpTruncated = 72, "icmp-truncated", "The packet ends inside the ICMP header.";
        IcmpFamily = 73, "icmp-family", "ICMP in IPv6, or ICMPv6 in IPv4.";
        NeighbourDiscoveryHopLimit = 74, "nd-hop-limit", "Neighbour discovery that came through a router: hop limit below 255 (RFC 4861, 6.1).";
        NeighbourDiscoveryCode = 75, "nd-code", "Neighbour discovery whose code is not 0 (RFC 4861, 6.1).";

        TcpOutOfWindow = 80, "tcp-out-of-window", "Belongs to a flow by its addresses and ports, but its sequence or acknowledgment number lies where nothing of the conversation can be.";
        FlowState = 81, "flow-state", "Belongs to a flow that is in no state in which such a packet can come.";
        FlowExpired = 82, "flow-expired", "Answers a flow that has been idle for longer than its timeout.";
        IcmpUnrelated = 83, "icmp-unrelated", "An ICMP error about a packet that this host did not send.";
        IcmpMalformed = 84, "icmp-malformed", "An ICMP error whose quoted packet is cut short or cannot be one.";
        IcmpRate = 85, "icmp-rate", "More ICMP errors than are let in in a period of one to ten seconds.";

        Banned = 100, "banned", "Rules accept it, but its source is banned.";
        RateLimit = 101, "rate-limit", "Rules accept it, but it is more than the limit of the rule lets in.";

        EgressNoRule = 90, "egress-no-rule", "No egress rule matched a packet that leaves and the default is to drop.";
        EgressMalformed = 91, "egress-malformed", "A packet that leaves cannot be read, and what leaves is filtered.";
        EgressRateLimit = 93, "egress-rate-limit", "More of what an egress rule accepts than its limit lets out.";
        EgressFragment = 92, "egress-fragment", "A later fragment that leaves, of a datagram whose first one did not, and what leaves is filtered.";
    }
}

reasons! {
    /// Why a packet was let through without a rule.
    PassReason {
        Default = 0, "default", "No rule matched and the default is to accept.";
        Arp = 1, "arp", "Essential: ARP.";
        NeighbourDiscovery = 2, "neighbour-discovery", "Essential: IPv6 neighbour discovery.";
        PathMtu = 3, "path-mtu", "Essential: an ICMP error about a packet that this host sent.";
        DhcpClient = 4, "dhcp-client", "Essential: answers to the DHCP client.";
        MulticastMembership = 5, "multicast-membership", "Essential: IGMP or MLD.";
        LinkLayer = 6, "link-layer", "Essential: LLDP, LACP or STP.";
        Answer = 7, "answer", "Answers a flow that this host opened.";
        Connection = 8, "connection", "Belongs to a TCP connection of this host that is older than the firewall or than its flow's entry.";
        EgressDefault = 9, "egress-default", "Left because no egress rule matched and the default is to accept.";
        EgressReply = 10, "egress-reply", "Left in answer to what rules accept on ingress.";
        EgressEssential = 11, "egress-essential", "Left as an essential: ARP, neighbour discovery, DHCP, ICMP errors, multicast membership.";
        Fragment = 12, "fragment", "A later fragment of a datagram whose first one was accepted.";
        FragmentEarly = 13, "fragment-early", "A later fragment whose first one was not seen; without that nothing is reassembled.";
        EgressConnection = 14, "egress-connection", "Left although no egress rule accepts it, because it belongs to a TCP connection that was open before.";
        Cookie = 16, "cookie", "Completes a TCP connection whose SYN this host answered with a cookie.";
        SynCookie = 17, "syn-cookie", "A SYN that came in a flood and was answered with a cookie in this host's place.";
        Open = 18, "open", "Cannot be read or is a fragment, and is let in because no policy is in force: the first one was not confirmed in time.";
        EgressFragment = 15, "egress-fragment-later", "A later fragment of a datagram whose first one left.";
    }
}

impl DropReason {
    /// Whether it is about what leaves.
    pub const fn is_egress(self) -> bool {
        matches!(
            self,
            Self::EgressNoRule
                | Self::EgressMalformed
                | Self::EgressFragment
                | Self::EgressRateLimit
        )
    }

    /// Slot of this reason's counter.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        self.number()
    }
}

impl PassReason {
    /// Whether it is about what leaves.
    pub const fn is_egress(self) -> bool {
        matches!(
            self,
            Self::EgressDefault
                | Self::EgressReply
                | Self::EgressEssential
                | Self::EgressConnection
                | Self::EgressFragment
        )
    }

    /// Slot of this reason's counter.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        super::counter::PASS_BASE + self.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_labels_are_unique_and_fit_their_counters() {
        let drops = DropReason::ALL.iter().map(|r| (r.counter(), r.label()));
        let passes = PassReason::ALL.iter().map(|r| (r.counter(), r.label()));
        let all: std::vec::Vec<_> = drops.chain(passes).collect();
        assert!(
            all.iter()
                .all(|(slot, _)| *slot < crate::abi::counter::NAMED_BASE)
        );
        assert!(
            DropReason::ALL
                .iter()
                .all(|r| r.counter() < crate::abi::counter::PASS_BASE)
        );
        assert_eq!(
            all.iter().map(|a| a.0).collect::<HashSet<_>>().len(),
            all.len()
        );
        assert_eq!(
            all.iter().map(|a| a.1).collect::<HashSet<_>>().len(),
            all.len()
        );
    }
}
