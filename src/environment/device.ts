/** What torch can do on this machine, from worker/sparkablate/loading/device_report.py. */
import { z } from "zod";
import { workerDirectory } from "./environment.ts";
import { runModule } from "./tether.ts";

const deviceReport = z.object({
  torch: z.string(),
  cuda: z.string().nullable(),
  transformers: z.string(),
  device: z.string(),
  arch_list: z.array(z.string()),
  devices: z.array(
    z.object({
      name: z.string(),
      capability: z.string(),
      missing_kernels: z.string().nullable(),
      /** Says that the driver has to compile its kernels first, or null. */
      slow_first_pass: z.string().nullable(),
    }),
  ),
  /** What the weights of a model on `device` may take, in words. */
  memory: z.string(),
  /** By dtype: why its matmul or attention was refused, or null. */
  proof: z.record(z.string(), z.string().nullable()),
});
export type DeviceReport = z.infer<typeof deviceReport>;

/** Imports torch and transformers and tries the device; throws `environment_missing` where that fails. */
export async function reportDevice(python: string): Promise<DeviceReport> {
  let json = "";
  await runModule(python, "sparkablate.loading.device_report", [], {
    env: { PYTHONPATH: workerDirectory() },
    onLine: (line) => {
      if (line.startsWith("{")) json = line;
    },
  });
  return deviceReport.parse(JSON.parse(json));
}
