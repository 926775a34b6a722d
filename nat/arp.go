package nat

import (
	"encoding/binary"

	"sluice/internal/packet"
)

// Offsets in an Ethernet frame that carries ARP for IPv4 (RFC 826).
const (
	arpHardware  = packet.EthernetLength // hardware type .. protocol length
	arpOperation = arpHardware + 6
	arpSenderMAC = arpHardware + 8
	arpSenderIP  = arpHardware + 14
	arpTargetMAC = arpHardware + 18
	arpTargetIP  = arpHardware + 24
	arpEnd       = arpHardware + 28

	arpRequest = 1
	arpReply   = 2

	// arpIPv4 is the first six bytes of ARP: Ethernet (1), IPv4 (0x0800), and
	// their address lengths 6 and 4.
	arpIPv4 = 0x0001_0800_0604
)

// ARPTarget returns the address that the ARP request in frame asks for, in host
// byte order, and false for everything else: other protocols, replies, requests
// by a group address, and announcements. A probe, which asks from 0.0.0.0, is
// answered as well: it is how a host finds out that the address is in use (RFC
// 5227 2.1.1).
func ARPTarget(frame []byte) (addr uint32, ok bool) {
	if len(frame) < arpEnd || binary.BigEndian.Uint16(frame[packet.EthernetLength-2:]) != packet.EtherTypeARP {
		return 0, false
	}
	// Eight bytes at once: the six of the header, and the operation.
	if binary.BigEndian.Uint64(frame[arpHardware:]) != arpIPv4<<16|arpRequest {
		return 0, false
	}
	target := binary.BigEndian.Uint32(frame[arpTargetIP:])
	if frame[arpSenderMAC]&1 != 0 || binary.BigEndian.Uint32(frame[arpSenderIP:]) == target {
		return 0, false
	}
	return target, true
}

// ARPReply turns a request that ARPTarget accepted into the reply that its
// target is at mac. The frame's length stays.
func ARPReply(frame []byte, mac [6]byte) {
	sender, target := frame[arpSenderMAC:arpTargetMAC], frame[arpTargetMAC:arpEnd]
	copy(frame[0:6], sender[:6])
	copy(frame[6:12], mac[:])
	binary.BigEndian.PutUint16(frame[arpOperation:], arpReply)
	asked := [4]byte(target[6:])
	copy(target, sender) // who asked is now the target
	copy(sender, mac[:])
	copy(sender[6:], asked[:])
}

// ARPAnnouncementLength is the length of a frame with an announcement or a probe.
const ARPAnnouncementLength = arpEnd

// ARPAnnouncement writes into frame, of ARPAnnouncementLength bytes, the
// announcement to all stations that addr is at mac: a request for it by itself
// (RFC 5227 section 2.3).
func ARPAnnouncement(frame []byte, mac [6]byte, addr uint32) {
	for i := range 6 {
		frame[i] = 0xff
		frame[arpTargetMAC+i] = 0
	}
	copy(frame[6:12], mac[:])
	binary.BigEndian.PutUint16(frame[packet.EthernetLength-2:], packet.EtherTypeARP)
	binary.BigEndian.PutUint64(frame[arpHardware:], arpIPv4<<16|arpRequest)
	copy(frame[arpSenderMAC:], mac[:])
	binary.BigEndian.PutUint32(frame[arpSenderIP:], addr)
	binary.BigEndian.PutUint32(frame[arpTargetIP:], addr)
}

// ARPProbe writes into frame, of ARPAnnouncementLength bytes, the question to all
// stations whether any has addr, which mac does not claim by it (RFC 5227 section
// 2.1.1).
func ARPProbe(frame []byte, mac [6]byte, addr uint32) {
	ARPAnnouncement(frame, mac, addr)
	binary.BigEndian.PutUint32(frame[arpSenderIP:], 0)
}
