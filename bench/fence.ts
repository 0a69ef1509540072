/** Loaded into a program of others with `--import`: it listens on the loopback only, at a free port, and sends it. */
import { type AddressInfo, Server } from 'node:net';

const { listen } = Server.prototype;
Server.prototype.listen = function fenced(this: Server, ...args: unknown[]) {
  const listening = args.findLast((arg): arg is () => void => typeof arg === 'function');
  this.once('listening', () => process.send?.({ port: (this.address() as AddressInfo).port }));
  const place = { port: 0, host: '127.0.0.1', backlog: 4096 };
  return Reflect.apply(listen, this, [place, listening]) as Server;
};
