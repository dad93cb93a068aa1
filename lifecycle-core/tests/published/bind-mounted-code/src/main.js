console.log("here");
