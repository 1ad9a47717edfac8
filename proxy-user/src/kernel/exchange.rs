// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request over netlink and its answers, for the protocols that rtnetlink does not speak.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// What is between a netlink header and the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    kind: u16,
    payload: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.payload.len()].copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Message {
            kind: header.message_type,
            payload: payload.to_vec(),
        })
    }
}

/// A socket to the kernel, of the namespace that it was opened in.
pub struct Exchange {
    socket: Socket,
    sequence: u32,
}

impl Exchange {
    /// Opens one for a protocol (`NETLINK_*`).
    pub fn open(protocol: isize) -> io::Result<Exchange> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Exchange { socket, sequence: 0 })
    }

    /// Sends a request (`flags` besides NLM_F_REQUEST) and hands over the payload of each answer, up to the
    /// acknowledgement or the end of the dump.
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        payload: Vec<u8>,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Message { kind, payload }));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    // Of a request that was given up.
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(error) => {
                        return if error.code.is_none() {
                            Ok(())
                        } else {
                            Err(error.to_io())
                        };
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(inner) => each(&inner.payload),
                    _ => return Err(io::Error::other("the kernel's answer was cut short")),
                }
            }
        }
    }
}
