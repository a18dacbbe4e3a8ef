//! How deep the stack of an image can get: each function's frame and calls are read from its machine code.
//!
//! Frames and direct calls are exact. Behind a call through a pointer stand all functions that it could reach: those of
//! that slot in any vtable and those in tables for a call through memory, every function whose address is taken
//! anywhere for a call through a register. A cycle of calls (formatting calls formatting) is cut where it closes and
//! counted, for a person to look at; so the result is an estimate from above for everything but recursion.

use anyhow::{Context, Result};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Parts of the symbols of functions that begin an empty stack: the entry code and a further processor's start and main
/// function. Their addresses are taken, but nothing calls them on top of something else.
const BEGINNERS: [&str; 4] =
    ["monovisor_entry", "monovisor_trampoline", "9secondary5enter", "4boot9run_other"];

/// Bytes that CALL pushes.
const RETURN_ADDRESS: u64 = 8;

/// Whom a call calls.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// This function.
    Known(usize),
    /// What stands in that place of a structure: a vtable's method, or a member.
    Slot(u64),
    /// Whatever a register held.
    Anything,
}

/// A call, and the stack in use at that point.
#[derive(Clone, Copy, Debug)]
struct Call {
    depth: u64,
    target: Target,
}

/// Functions whose addresses are taken.
#[derive(Debug, Default)]
struct Pointers {
    /// By code, or in data that is no vtable.
    free: BTreeSet<usize>,
    /// Those of `free` that stand in data.
    tables: BTreeSet<usize>,
    /// By their offset in a vtable, from 24 on: before come destructor, size and alignment.
    slots: BTreeMap<u64, BTreeSet<usize>>,
}

impl Pointers {
    /// Finds vtables and other pointers in constant or initialised data.
    fn read(&mut self, data: &[u8], index: &HashMap<u64, usize>) {
        let words: Vec<u64> = data
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect();
        let mut at = 0;
        while at < words.len() {
            let word = |offset: usize| words.get(at + offset).copied().unwrap_or(1);
            let vtable = (word(0) == 0 || index.contains_key(&word(0)))
                && word(1) < VTABLE_SIZE_MAX
                && word(2).is_power_of_two()
                && word(2) <= VTABLE_ALIGN_MAX
                && index.contains_key(&word(3));
            if !vtable {
                self.free.extend(index.get(&word(0)));
                self.tables.extend(index.get(&word(0)));
                at += 1;
                continue;
            }
            // Destructors are called through a register.
            self.free.extend(index.get(&word(0)));
            let mut slot = 3;
            while let Some(function) = index.get(&word(slot)) {
                self.slots.entry(8 * slot as u64).or_default().insert(*function);
                slot += 1;
            }
            at += slot;
        }
    }

    /// Leaves out those that nobody calls.
    fn leave_out(&mut self, uncalled: impl Fn(usize) -> bool) {
        for functions in [&mut self.free, &mut self.tables].into_iter().chain(self.slots.values_mut()) {
            functions.retain(|function| !uncalled(*function));
        }
    }

    fn behind(&self, target: Target) -> BTreeSet<usize> {
        match target {
            Target::Known(function) => BTreeSet::from([function]),
            Target::Slot(offset) => {
                self.slots.get(&offset).into_iter().flatten().chain(&self.tables).copied().collect()
            }
            Target::Anything => self.slots.values().flatten().chain(&self.free).copied().collect(),
        }
    }
}

/// A size and an alignment beyond these are not those of a type: the words are no vtable.
const VTABLE_SIZE_MAX: u64 = 16 << 20;
const VTABLE_ALIGN_MAX: u64 = 4096;

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
    /// Calls that close a cycle.
    pub cyclic: usize,
    /// Functions that were assumed behind pointers.
    pub pointers: usize,
}

/// Analyses an ELF image: the deepest chain from whatever function it starts, since entry code is beyond analysis.
pub fn analyse(data: &[u8]) -> Result<Deepest> {
    let (functions, pointers) = read(data)?;
    deepest(&functions, &pointers, None).context("the image has no functions")
}

/// As [`analyse`], from the functions whose symbols contain `name`: the deepest of their chains.
pub fn analyse_from(data: &[u8], name: &str) -> Result<Deepest> {
    let (functions, pointers) = read(data)?;
    (0..functions.len())
        .filter(|function| functions[*function].name.contains(name))
        .filter_map(|root| deepest(&functions, &pointers, Some(root)))
        .max_by_key(|deepest| deepest.bytes)
        .with_context(|| format!("the image has no function {name}"))
}

/// The functions of an ELF image with their calls, and those that are called through pointers.
fn read(data: &[u8]) -> Result<(Vec<Function>, Pointers)> {
    let file = object::File::parse(data)?;
    let text: Vec<(u64, &[u8])> = file
        .sections()
        .filter(|section| section.kind() == object::SectionKind::Text)
        .filter_map(|section| Some((section.address(), section.data().ok()?)))
        .collect();
    let mut functions = functions(&file, &text);
    let index: HashMap<u64, usize> =
        functions.iter().enumerate().map(|(index, function)| (function.start, index)).collect();
    let mut pointers = Pointers::default();
    for function in &mut functions {
        let code = text.iter().find_map(|(address, bytes)| {
            let from = function.start.checked_sub(*address)? as usize;
            bytes.get(from..from + (function.end - function.start) as usize)
        });
        if let Some(code) = code {
            scan(function, code, &index, &mut pointers.free);
        }
    }
    for section in file.sections() {
        if matches!(section.kind(), object::SectionKind::ReadOnlyData | object::SectionKind::Data) {
            pointers.read(section.data().unwrap_or_default(), &index);
        }
    }
    pointers
        .leave_out(|function| BEGINNERS.iter().any(|beginner| functions[function].name.contains(beginner)));
    Ok((functions, pointers))
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
                    function.calls.extend(
                        to.map(|to| Call { depth: depth + RETURN_ADDRESS, target: Target::Known(to) }),
                    );
                }
                FlowControl::IndirectCall => {
                    function.calls.push(Call { depth: depth + RETURN_ADDRESS, target: through(instruction) });
                }
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    if inside {
                        work.push((target, depth));
                    } else {
                        let to = index.get(&target).copied();
                        function.calls.extend(to.map(|to| Call { depth, target: Target::Known(to) }));
                    }
                }
                // With nothing on the stack this is a call in place of a return.
                FlowControl::IndirectBranch if depth == 0 => {
                    function.calls.push(Call { depth, target: through(instruction) });
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

/// Whom a call or jump through a pointer may reach.
fn through(instruction: &Instruction) -> Target {
    let plain = instruction.op0_kind() == OpKind::Memory && instruction.memory_index() == Register::None;
    match instruction.memory_displacement64() {
        offset if plain && offset >= 24 && offset.is_multiple_of(8) => Target::Slot(offset),
        _ => Target::Anything,
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

/// A function that is being looked at.
struct Visit {
    function: usize,
    /// Its calls: stack in use, and one callee each.
    edges: Vec<(u64, usize)>,
    next: usize,
}

/// The deepest chain from `from`, or from any function: depth first, each function once, with a stack of our own.
fn deepest(functions: &[Function], pointers: &Pointers, from: Option<usize>) -> Option<Deepest> {
    let edges = |function: usize| -> Vec<(u64, usize)> {
        let mut edges = BTreeMap::new();
        for call in &functions[function].calls {
            for callee in pointers.behind(call.target) {
                let deepest = edges.entry(callee).or_insert(call.depth);
                *deepest = call.depth.max(*deepest);
            }
        }
        edges.into_iter().map(|(callee, depth)| (depth, callee)).collect()
    };
    let mut depth: Vec<Option<u64>> = vec![None; functions.len()];
    let mut via: Vec<Option<usize>> = vec![None; functions.len()];
    let mut open = vec![false; functions.len()];
    let mut cyclic = 0;
    let roots = from.map_or(0..functions.len(), |from| from..from + 1);
    for root in roots.clone() {
        if depth[root].is_some() {
            continue;
        }
        let mut work = vec![Visit { function: root, edges: edges(root), next: 0 }];
        open[root] = true;
        while let Some(visit) = work.last_mut() {
            let Some(&(_, callee)) = visit.edges.get(visit.next) else {
                let (mut most, mut chosen) = (functions[visit.function].frame, None);
                for &(used, callee) in &visit.edges {
                    // A callee that has no depth yet is one that closes a cycle.
                    if let Some(below) = depth[callee]
                        && used + below > most
                    {
                        (most, chosen) = (used + below, Some(callee));
                    }
                }
                (depth[visit.function], via[visit.function]) = (Some(most), chosen);
                open[visit.function] = false;
                work.pop();
                continue;
            };
            visit.next += 1;
            if open[callee] {
                cyclic += 1;
            } else if depth[callee].is_none() {
                open[callee] = true;
                work.push(Visit { function: callee, edges: edges(callee), next: 0 });
            }
        }
    }
    let start = roots.max_by_key(|function| depth[*function])?;
    let mut chain = Vec::new();
    let mut at = Some(start);
    while let Some(function) = at {
        chain.push((functions[function].name.clone(), functions[function].frame));
        at = via[function];
    }
    let pointers = pointers.behind(Target::Anything).len();
    Some(Deepest { bytes: depth[start]?, chain, cyclic, pointers })
}
