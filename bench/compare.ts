import { type Call, percentile, run, type Timing } from './load.ts';
import type { Measured } from './processes.ts';

export const CONCURRENCY = 16;

interface Cost {
  /** Per call. */
  readonly cpuMs: number;
  readonly timings: readonly Timing[];
}

export const median = (values: readonly number[]) => percentile(values, 50);

/** @param spreadMs the calls of one caller begin at random within this time */
export async function cost(
  server: Measured,
  total: number,
  spreadMs: number,
  call: (i: number) => Call,
): Promise<Cost> {
  const before = await server.sample();
  const timings = await run(total, CONCURRENCY, spreadMs, call);
  const after = await server.sample();
  return { cpuMs: (after.cpuMs - before.cpuMs) / total, timings };
}

/**
 * Runs both in alternating rounds, because the speed of a machine changes during a run.
 * @param warmUp rounds that are not counted: V8 finishes compiling after about a thousand calls of a kind
 */
export async function compare(
  rounds: number,
  warmUp: number,
  ours: () => Promise<Cost>,
  base: () => Promise<Cost>,
) {
  for (let i = 0; i < warmUp; i += 1) {
    await base();
    await ours();
  }
  const costs: { ours: Cost; base: Cost }[] = [];
  for (let i = 0; i < rounds; i += 1) costs.push({ base: await base(), ours: await ours() });
  const firsts = (pick: (pair: { ours: Cost; base: Cost }) => Cost) =>
    costs.flatMap((pair) => pick(pair).timings.map((t) => t.first));
  return {
    ours: { cpuMs: median(costs.map((pair) => pair.ours.cpuMs)), firsts: firsts((pair) => pair.ours) },
    base: { cpuMs: median(costs.map((pair) => pair.base.cpuMs)), firsts: firsts((pair) => pair.base) },
    /** Median of the rounds' ratios of CPU. */
    ratio: median(costs.map((pair) => pair.ours.cpuMs / pair.base.cpuMs)),
  };
}
