import { setImmediate as nextTick } from 'node:timers/promises';

/**
 * Groups of the SDK's modules. Each takes a few milliseconds to load; one import of all blocks the event loop for 100
 * to 250 ms.
 */
const STEPS = [
  () => import('openai/uploads'),
  () => import('openai/resources/chat/completions/completions'),
  () => import('openai/resources/responses/responses'),
  () => import('openai/resources/beta/beta'),
  () => import('openai/resources/index'),
  () => import('openai'),
];

/** Loads the SDK, and lets other work run between the steps. */
export async function preloadSdk(): Promise<void> {
  for (const step of STEPS) {
    await step();
    await nextTick();
  }
}
