/* Runs one signature of a SavedModel with TensorFlow's C API: no Python, no Keras.

   run_saved_model FOLDER INPUT SHAPE OUTPUT COUNT FILE...

   INPUT and OUTPUT are the graph's tensors, as NAME:NUMBER. SHAPE is "bytes": each FILE is one string
   of a batch; or the shape of a float tensor, as in 2,224,224,3, which is the content of the only FILE.
   Prints COUNT floats of the output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static void check(TF_Status* status, const char* what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static TF_Output find(TF_Graph* graph, char* name) {
  char* colon = strchr(name, ':');
  *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  if (output.oper == NULL) {
    fprintf(stderr, "no operation %s\n", name);
    exit(1);
  }
  return output;
}

static char* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) {
    perror(path);
    exit(1);
  }
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  char* content = malloc(*size + 1);
  if (fread(content, 1, *size, file) != *size) exit(1);
  fclose(file);
  return content;
}

int main(int argc, char** argv) {
  const char* tags[] = {"serve"};
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_Session* session = TF_LoadSessionFromSavedModel(TF_NewSessionOptions(), NULL, argv[1], tags, 1,
                                                     graph, NULL, status);
  check(status, "load");
  TF_Output input = find(graph, argv[2]), output = find(graph, argv[4]);

  TF_Tensor* value;
  if (strcmp(argv[3], "bytes") == 0) {
    int64_t rows = argc - 6;
    value = TF_AllocateTensor(TF_STRING, &rows, 1, rows * sizeof(TF_TString));
    TF_TString* strings = TF_TensorData(value);
    for (int64_t i = 0; i < rows; i++) {
      size_t size;
      char* content = read_file(argv[6 + i], &size);
      TF_TString_Init(&strings[i]);
      TF_TString_Copy(&strings[i], content, size);
    }
  } else {
    int64_t shape[4];
    int rank = 0;
    for (char* n = strtok(argv[3], ","); n != NULL; n = strtok(NULL, ",")) shape[rank++] = atoll(n);
    size_t size;
    char* content = read_file(argv[6], &size);
    value = TF_AllocateTensor(TF_FLOAT, shape, rank, size);
    memcpy(TF_TensorData(value), content, size);
  }

  TF_Tensor* answer = NULL;
  TF_SessionRun(session, NULL, &input, &value, 1, &output, &answer, 1, NULL, 0, NULL, status);
  check(status, "run");
  float* floats = TF_TensorData(answer);
  for (int i = 0; i < atoi(argv[5]); i++) printf("%.9g\n", floats[i]);
  return 0;
}
