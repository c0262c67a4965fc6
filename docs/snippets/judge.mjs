// npm install onnxruntime-node sharp; node judge.mjs part.onnx picture.png
// For a model that was exported with --input uint8 and has no region of interest, no tiles and no shorter_side.
import ort from "onnxruntime-node";
import sharp from "sharp";

const [file, picture] = process.argv.slice(2);
const session = await ort.InferenceSession.create(file);
const [, size] = session.inputMetadata[0].shape; // uint8 (pictures, size, size, 3)
const { data } = await sharp(picture)
  .rotate() // as EXIF says
  .removeAlpha()
  .toColourspace("srgb")
  .resize(size, size, { fit: "fill", kernel: "linear" })
  .raw()
  .toBuffer({ resolveWithObject: true });
const images = new ort.Tensor("uint8", new Uint8Array(data), [1, size, size, 3]);
const { scores, maps } = await session.run({ images });
const highest = maps.data.reduce((a, b) => Math.max(a, b));
console.log(`score ${scores.data[0]}, highest map value ${highest}`);
