//! How deep the stack of an image can get: each function's frame and calls are read from its machine code.
//!
//! Frames and direct calls are exact. Where a function is called through a pointer, every function whose address is
//! taken anywhere in the image is assumed, so what comes out is a bound and no measurement. A cycle of calls has no
//! bound; each function of a cycle is counted once and the cycle is reported, for a person to look at.

use anyhow::{Context, Result};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Bytes that CALL pushes.
const RETURN_ADDRESS: u64 = 8;

/// A call: stack in use at that point, and whom it calls (`None`: through a pointer).
#[derive(Clone, Copy, Debug)]
struct Call {
    depth: u64,
    target: Option<usize>,
}

#[derive(Debug)]
struct Function {
    name: String,
    start: u64,
    end: u64,
    frame: u64,
    calls: Vec<Call>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Deepest {
    /// The bound, in bytes.
    pub bytes: u64,
    /// The chain of calls that reaches it, outermost first, each with its own frame.
    pub chain: Vec<(String, u64)>,
    /// Functions that take part in cycles of calls.
    pub cyclic: usize,
    /// Functions that were assumed behind pointers.
    pub pointers: usize,
}

/// Analyses an ELF image: the deepest chain from whatever function it starts, since entry code is beyond analysis.
pub fn analyse(data: &[u8]) -> Result<Deepest> {
    let file = object::File::parse(data)?;
    let text: Vec<(u64, &[u8])> = file
        .sections()
        .filter(|section| section.kind() == object::SectionKind::Text)
        .filter_map(|section| Some((section.address(), section.data().ok()?)))
        .collect();
    let mut functions = functions(&file, &text);
    let index: HashMap<u64, usize> =
        functions.iter().enumerate().map(|(index, function)| (function.start, index)).collect();
    let mut taken = BTreeSet::new();
    for function in &mut functions {
        let code = text.iter().find_map(|(address, bytes)| {
            let from = function.start.checked_sub(*address)? as usize;
            bytes.get(from..from + (function.end - function.start) as usize)
        });
        if let Some(code) = code {
            scan(function, code, &index, &mut taken);
        }
    }
    // Pointers in constants: tables of functions, vtables.
    for section in file.sections() {
        if matches!(section.kind(), object::SectionKind::ReadOnlyData | object::SectionKind::Data) {
            for word in section.data().unwrap_or_default().chunks_exact(8) {
                let value = u64::from_le_bytes(word.try_into().unwrap_or_default());
                taken.extend(index.get(&value));
            }
        }
    }
    Graph::new(&functions, &taken).deepest().context("the image has no functions")
}

/// The functions, by address; a label of assembly code reaches to the next one.
fn functions(file: &object::File, text: &[(u64, &[u8])]) -> Vec<Function> {
    let mut starts: BTreeMap<u64, (String, u64)> = BTreeMap::new();
    for symbol in file.symbols() {
        let address = symbol.address();
        let inside =
            text.iter().any(|(start, bytes)| (*start..start + bytes.len() as u64).contains(&address));
        let kind = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label);
        if !inside || !kind {
            continue;
        }
        let name = symbol.name().unwrap_or("?").to_owned();
        let slot = starts.entry(address).or_insert((name.clone(), 0));
        if symbol.size() > slot.1 {
            *slot = (name, symbol.size());
        }
    }
    let addresses: Vec<u64> = starts.keys().copied().collect();
    let mut functions = Vec::new();
    for (position, (start, (name, size))) in starts.into_iter().enumerate() {
        let section_end = text
            .iter()
            .map(|(address, bytes)| (*address, address + bytes.len() as u64))
            .find(|(from, to)| (*from..*to).contains(&start))
            .map_or(start, |(_, to)| to);
        let next = addresses.get(position + 1).copied().unwrap_or(section_end).min(section_end);
        let end = if size == 0 { next } else { start + size };
        functions.push(Function { name, start, end, frame: 0, calls: Vec::new() });
    }
    functions
}

/// Follows a function's code and notes how much stack is in use where.
fn scan(function: &mut Function, code: &[u8], index: &HashMap<u64, usize>, taken: &mut BTreeSet<usize>) {
    let mut instructions: BTreeMap<u64, Instruction> = BTreeMap::new();
    let mut decoder = Decoder::with_ip(64, code, function.start, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        instructions.insert(instruction.ip(), instruction);
    }
    let mut depths: HashMap<u64, u64> = HashMap::new();
    let mut work = vec![(function.start, 0u64)];
    // Targets of jump tables are not known: what was reached by nothing else is taken up at the depth of the jump.
    let mut behind_table = 0;
    loop {
        let Some((address, mut depth)) = work.pop() else {
            match instructions.keys().find(|address| !depths.contains_key(address)) {
                Some(address) => {
                    work.push((*address, behind_table));
                    continue;
                }
                None => break,
            }
        };
        let mut at = address;
        while let Some(instruction) = instructions.get(&at) {
            if depths.contains_key(&at) {
                break;
            }
            depths.insert(at, depth);
            note_pointers(instruction, index, taken);
            let target = instruction.near_branch_target();
            let inside = (function.start..function.end).contains(&target);
            match instruction.flow_control() {
                FlowControl::Call => {
                    let to = index.get(&target).copied();
                    function
                        .calls
                        .extend(to.map(|to| Call { depth: depth + RETURN_ADDRESS, target: Some(to) }));
                }
                FlowControl::IndirectCall => {
                    function.calls.push(Call { depth: depth + RETURN_ADDRESS, target: None });
                }
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    if inside {
                        work.push((target, depth));
                    } else {
                        let to = index.get(&target).copied();
                        function.calls.extend(to.map(|to| Call { depth, target: Some(to) }));
                    }
                }
                FlowControl::IndirectBranch => behind_table = behind_table.max(depth),
                _ => {}
            }
            depth = after(instruction, depth);
            function.frame = function.frame.max(depth);
            if matches!(
                instruction.flow_control(),
                FlowControl::Return
                    | FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch
                    | FlowControl::Exception
            ) {
                break;
            }
            at = instruction.next_ip();
        }
    }
}

/// Stack in use after an instruction.
fn after(instruction: &Instruction, depth: u64) -> u64 {
    let to_rsp = instruction.op_count() == 2
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::RSP;
    let immediate = instruction.try_immediate(1).unwrap_or(0);
    match instruction.mnemonic() {
        Mnemonic::Sub if to_rsp && instruction.op1_kind() != OpKind::Register => {
            depth.saturating_add(immediate)
        }
        Mnemonic::Add if to_rsp && instruction.op1_kind() != OpKind::Register => {
            depth.saturating_sub(immediate)
        }
        // Alignment: at worst all of it is lost.
        Mnemonic::And if to_rsp => depth + (!immediate & 0xfff),
        // A call's push and its return's pop even out.
        _ if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) => depth,
        _ => depth.saturating_add_signed(-i64::from(instruction.stack_pointer_increment())),
    }
}

/// An address of a function that code takes may be called from anywhere.
fn note_pointers(instruction: &Instruction, index: &HashMap<u64, usize>, taken: &mut BTreeSet<usize>) {
    if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
        taken.extend(index.get(&instruction.ip_rel_memory_address()));
    }
    if instruction.mnemonic() == Mnemonic::Mov
        && let Ok(value) = instruction.try_immediate(1)
    {
        taken.extend(index.get(&value));
    }
}

/// Calls between functions, cycles folded.
struct Graph<'a> {
    functions: &'a [Function],
    taken: &'a BTreeSet<usize>,
    component: Vec<usize>,
    members: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn new(functions: &'a [Function], taken: &'a BTreeSet<usize>) -> Self {
        let mut graph =
            Self { functions, taken, component: vec![usize::MAX; functions.len()], members: Vec::new() };
        graph.fold();
        graph
    }

    fn targets(&self, from: usize) -> impl Iterator<Item = (u64, usize)> + '_ {
        self.functions[from].calls.iter().flat_map(move |call| {
            let known = call.target.map(|target| (call.depth, target));
            let behind = if call.target.is_none() { Some(self.taken) } else { None };
            known.into_iter().chain(behind.into_iter().flatten().map(move |target| (call.depth, *target)))
        })
    }

    /// Strongly connected components, by Tarjan's algorithm with a stack of its own; callees come first.
    fn fold(&mut self) {
        let count = self.functions.len();
        let (mut order, mut low) = (vec![usize::MAX; count], vec![0; count]);
        let (mut open, mut on_stack, mut next) = (Vec::new(), vec![false; count], 0);
        for root in 0..count {
            if order[root] != usize::MAX {
                continue;
            }
            let mut work: Vec<(usize, Vec<usize>, usize)> = vec![(root, Vec::new(), 0)];
            while let Some((node, mut targets, mut position)) = work.pop() {
                if position == 0 && order[node] == usize::MAX {
                    (order[node], low[node], next) = (next, next, next + 1);
                    open.push(node);
                    on_stack[node] = true;
                    targets = self.targets(node).map(|(_, target)| target).collect();
                    targets.sort_unstable();
                    targets.dedup();
                }
                let mut descended = false;
                while let Some(&target) = targets.get(position) {
                    if order[target] == usize::MAX {
                        work.push((node, std::mem::take(&mut targets), position));
                        work.push((target, Vec::new(), 0));
                        descended = true;
                        break;
                    }
                    if on_stack[target] {
                        low[node] = low[node].min(low[target]);
                    }
                    position += 1;
                }
                if descended {
                    continue;
                }
                if low[node] == order[node] {
                    let mut members = Vec::new();
                    while let Some(member) = open.pop() {
                        on_stack[member] = false;
                        self.component[member] = self.members.len();
                        members.push(member);
                        if member == node {
                            break;
                        }
                    }
                    self.members.push(members);
                }
            }
        }
    }

    fn deepest(&self) -> Option<Deepest> {
        // Components come callees first: each one's depth is known before it is asked for.
        let mut depth = vec![0u64; self.members.len()];
        let mut via: Vec<Option<(usize, usize)>> = vec![None; self.members.len()];
        for (component, members) in self.members.iter().enumerate() {
            let frames: u64 = members.iter().map(|member| self.functions[*member].frame).sum();
            let returns = RETURN_ADDRESS * (members.len() as u64 - 1);
            depth[component] = frames + returns;
            for &member in members {
                for (used, target) in self.targets(member) {
                    let other = self.component[target];
                    if other == component {
                        continue;
                    }
                    // Within a cycle the others' frames may all be there already.
                    let before = if members.len() == 1 { used } else { frames + returns + RETURN_ADDRESS };
                    if before + depth[other] > depth[component] {
                        depth[component] = before + depth[other];
                        via[component] = Some((member, target));
                    }
                }
            }
        }
        let start = (0..depth.len()).max_by_key(|component| depth[*component])?;
        let entry = via[start].map_or(self.members[start][0], |(member, _)| member);
        let mut chain = vec![(self.functions[entry].name.clone(), self.functions[entry].frame)];
        let mut at = start;
        while let Some((_, target)) = via[at] {
            chain.push((self.functions[target].name.clone(), self.functions[target].frame));
            at = self.component[target];
        }
        let cyclic = self.members.iter().filter(|members| members.len() > 1).map(Vec::len).sum();
        Some(Deepest { bytes: depth[start], chain, cyclic, pointers: self.taken.len() })
    }
}
