/** Enables the compile cache before anything else is loaded, then runs the server. */
import './compile-cache.ts';

await import('./run.ts');
