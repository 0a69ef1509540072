import { say } from './i18n.js';

const EVERY_MS = 10_000;
const TIMEOUT_MS = 6000;

const SERVICE = {
  ready: ['good', 'serviceReady'],
  not_ready: ['bad', 'serviceNotReady'],
  stopping: ['bad', 'serviceStopping'],
};
const DATABASE = { up: ['good', 'up'], down: ['bad', 'down'] };
const UPSTREAM = { ...DATABASE, demo: ['demo', 'demo'] };
const NOTES = {
  up: ['model', 'modelUp'],
  down: ['model', 'modelDown'],
  demo: ['modelDemoTitle', 'modelDemo'],
};
const UNKNOWN = ['wait', 'unknown'];

/** @returns the report of /health/ready, whose 503 is a report too; undefined when the server does not answer */
async function ask() {
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const response = await fetch('/health/ready', { cache: 'no-store', signal });
    return await response.json();
  } catch {
    return undefined;
  }
}

function show(part, [state, key]) {
  const item = document.querySelector(`#health [data-part="${part}"]`);
  item.dataset.state = state;
  say(item.querySelector('b'), key);
}

function showAll(report) {
  show('service', report ? (SERVICE[report.status] ?? UNKNOWN) : ['bad', 'serviceSilent']);
  show('database', DATABASE[report?.database] ?? UNKNOWN);
  show('upstream', UPSTREAM[report?.upstream] ?? UNKNOWN);
  const note = NOTES[report?.upstream];
  if (!note) return;
  const box = document.getElementById('model');
  box.dataset.shown = report.upstream;
  say(box.querySelector('h2'), note[0]);
  say(box.querySelector('p'), note[1]);
}

/** Keeps the health line true while somebody looks at the page. */
export function watchHealth() {
  let timer;
  async function refresh() {
    clearTimeout(timer);
    showAll(await ask());
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, EVERY_MS);
  }
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) clearTimeout(timer);
    else void refresh();
  });
  void refresh();
}
