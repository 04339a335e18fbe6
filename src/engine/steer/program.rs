// SPDX-License-Identifier: MIT OR Apache-2.0
//! The classic BPF programs (bpf(4) has the instructions; the kernel's
//! Documentation/networking/filter.rst the extensions) by which the kernel chooses a line.
//!
//! Attached with SO_ATTACH_REUSEPORT_CBPF (socket(7)), which needs no privilege. The program
//! runs for each SYN and returns the number of a socket of the group; one that is out of
//! range means the kernel's own hash over all of them.

use nix::libc::sock_filter;

/// One instruction: code, jump if true, jump if false, constant.
pub type Instruction = (u16, u8, u8, u32);

/// Most instructions that the kernel takes (BPF_MAXINSNS).
const MOST: usize = 4096;

// Codes of linux/filter.h, by what they do to the accumulator A, the index register X and
// the memory M.
const A_HALF: u16 = 0x28;
const A_WORD: u16 = 0x20;
const A_MEMORY: u16 = 0x60;
const X_MEMORY: u16 = 0x61;
const X_FROM_A: u16 = 0x07;
const STORE_A: u16 = 0x02;
const A_CONSTANT: u16 = 0x00;
const MODULO: u16 = 0x94;
const MULTIPLY: u16 = 0x24;
const SHIFT_RIGHT: u16 = 0x74;
const XOR_CONSTANT: u16 = 0xa4;
const XOR_X: u16 = 0xac;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ABOVE_X: u16 = 0x2d;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

/// Where the network header begins, and what is no part of the packet (SKF_NET_OFF,
/// SKF_AD_OFF).
const NETWORK: u32 = -0x10_0000_i32 as u32;
const EXTENSION: u32 = -0x1000_i32 as u32;
/// Extension: protocol of the packet; a random number.
const PROTOCOL: u32 = EXTENSION;
const RANDOM: u32 = EXTENSION + 56;
const ETH_P_IP: u32 = 0x0800;

/// Always line `line`.
pub fn always(line: u32) -> Vec<Instruction> {
    vec![(RETURN, 0, 0, line)]
}

/// At random among lines, in proportion to their weights; lines of weight 0 are not chosen.
/// Nothing to choose from gives line 0.
pub fn random(weighted: &[(u32, u32)]) -> Vec<Instruction> {
    let chosen: Vec<(u32, u32)> = weighted.iter().copied().filter(|w| w.1 > 0).collect();
    let total: u32 = chosen.iter().map(|w| w.1).sum();
    let Some((&(last, _), others)) = chosen.split_last() else {
        return always(0);
    };
    let mut program = vec![(A_WORD, 0, 0, RANDOM), (MODULO, 0, 0, total)];
    let mut below = 0;
    for (line, weight) in others {
        below += weight;
        program.push((JUMP_IF_AT_LEAST, 1, 0, below));
        program.push((RETURN, 0, 0, *line));
    }
    program.push((RETURN, 0, 0, last));
    program
}

/// By the client's address: that line of `lines` for which a hash of the address and
/// `seed(line)` is largest (rendezvous hashing), so that taking a line away moves only the
/// clients that were there. Of an IPv6 address the first 64 bits count. The hash has 32 bits
/// and is no cryptographic one.
pub fn by_address(lines: &[u32], seed: impl Fn(u32) -> u32) -> Vec<Instruction> {
    let Some((first, others)) = lines.split_first() else {
        return always(0);
    };
    let mut program = vec![
        (A_HALF, 0, 0, PROTOCOL),
        (JUMP_IF_EQUAL, 0, 2, ETH_P_IP),
        // The source address of IPv4.
        (A_WORD, 0, 0, NETWORK + 12),
        (JUMP, 0, 0, 5),
        // The first half of that of IPv6, its upper word stirred.
        (A_WORD, 0, 0, NETWORK + 8),
        (MULTIPLY, 0, 0, 0x9e37_79b1),
        (X_FROM_A, 0, 0, 0),
        (A_WORD, 0, 0, NETWORK + 12),
        (XOR_X, 0, 0, 0),
        // M[0]: the address. M[1]: the largest hash so far. M[2]: whose.
        (STORE_A, 0, 0, 0),
    ];
    hash(&mut program, seed(*first));
    program.extend([
        (STORE_A, 0, 0, 1),
        (A_CONSTANT, 0, 0, *first),
        (STORE_A, 0, 0, 2),
    ]);
    for line in others {
        hash(&mut program, seed(*line));
        program.extend([
            (X_MEMORY, 0, 0, 1),
            (JUMP_IF_ABOVE_X, 0, 3, 0),
            (STORE_A, 0, 0, 1),
            (A_CONSTANT, 0, 0, *line),
            (STORE_A, 0, 0, 2),
        ]);
    }
    program.extend([(A_MEMORY, 0, 0, 2), (RETURN_A, 0, 0, 0)]);
    debug_assert!(program.len() <= MOST);
    program
}

/// A = hash of M[0] and `seed`: the mixing steps of xxHash's 32-bit variant.
fn hash(program: &mut Vec<Instruction>, seed: u32) {
    program.extend([(A_MEMORY, 0, 0, 0), (XOR_CONSTANT, 0, 0, seed)]);
    for (factor, shift) in [(0xc2b2_ae35, 15), (0x27d4_eb2f, 13)] {
        program.extend([
            (MULTIPLY, 0, 0, factor),
            (X_FROM_A, 0, 0, 0),
            (SHIFT_RIGHT, 0, 0, shift),
            (XOR_X, 0, 0, 0),
        ]);
    }
}

/// The program as the kernel takes it.
pub fn encode(program: &[Instruction]) -> Vec<sock_filter> {
    let encoded = program
        .iter()
        .map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Runs a program for a packet from `source`, as the kernel would.
    fn run(program: &[Instruction], source: Ipv4Addr, random: u32) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 16], 0);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            let mut jump = |taken: bool| at += usize::from(if taken { jt } else { jf });
            match code {
                A_HALF if k == PROTOCOL => a = ETH_P_IP,
                A_WORD if k == RANDOM => a = random,
                A_WORD if k == NETWORK + 12 => a = u32::from(source),
                A_MEMORY => a = memory[k as usize],
                X_MEMORY => x = memory[k as usize],
                X_FROM_A => x = a,
                STORE_A => memory[k as usize] = a,
                A_CONSTANT => a = k,
                MODULO => a %= k,
                MULTIPLY => a = a.wrapping_mul(k),
                SHIFT_RIGHT => a >>= k,
                XOR_CONSTANT => a ^= k,
                XOR_X => a ^= x,
                JUMP => at += k as usize,
                JUMP_IF_EQUAL => jump(a == k),
                JUMP_IF_AT_LEAST => jump(a >= k),
                JUMP_IF_ABOVE_X => jump(a > x),
                RETURN => return k,
                RETURN_A => return a,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn seed(line: u32) -> u32 {
        (line + 1).wrapping_mul(0x85eb_ca6b) ^ 0x1234_5678
    }

    #[test]
    fn random_keeps_to_the_weights() {
        let program = random(&[(3, 1), (0, 0), (5, 3)]);
        let lines: Vec<u32> = (0..8)
            .map(|n| run(&program, Ipv4Addr::LOCALHOST, n))
            .collect();
        assert_eq!(lines, [3, 5, 5, 5, 3, 5, 5, 5]);
        assert_eq!(random(&[]), always(0));
        let wide: Vec<(u32, u32)> = (0..256).map(|line| (line, 3)).collect();
        assert_eq!(run(&random(&wide), Ipv4Addr::LOCALHOST, 767), 255);
        assert!(random(&wide).len() <= MOST);
    }

    #[test]
    fn an_address_stays_unless_its_line_goes() {
        let clients: Vec<Ipv4Addr> = (0..4000_u32)
            .map(|n| Ipv4Addr::from(0x7f00_0000 + n * 7))
            .collect();
        let place = |lines: &[u32]| -> Vec<u32> {
            let program = by_address(lines, seed);
            clients.iter().map(|c| run(&program, *c, 0)).collect()
        };
        let all = place(&[0, 1, 2, 3]);
        for line in 0..4 {
            let here = all.iter().filter(|l| **l == line).count();
            assert!((850..1150).contains(&here), "line {line}: {here}");
        }
        let without = place(&[0, 1, 3]);
        for (before, after) in all.iter().zip(&without) {
            assert!(before == after || *before == 2);
        }
        let more = place(&[0, 1, 2, 3, 4]);
        let moved = all.iter().zip(&more).filter(|(a, b)| a != b);
        assert!(moved.clone().all(|(_, after)| *after == 4));
        assert!((650..950).contains(&moved.count()));
        let most: Vec<u32> = (0..crate::config::MAX_LINES).collect();
        assert!(by_address(&most, seed).len() <= MOST);
    }
}
